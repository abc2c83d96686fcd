//! The command-line tool of hivemind: runs a root, shows a hive, prints messages of any type, and a demo.
//!
//! Every command prints its result on standard output and what went wrong as one sentence with its remedy on
//! standard error. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by the user where that means that
//! it is not done. A reader of standard output that closes its end (`hm echo '**' | head`) ends the command
//! quietly.

mod echo;
mod key;
mod ls;
mod policy;
mod root;
mod stop;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use hivemind::{Filter, FilterError, HiveName, NameError, Node};
use hivemind_runtime::root::MIN_ROOT_TIMEOUT;
use hivemind_runtime::runtime_dir::{RuntimeDir, RuntimeDirError};
use tracing_subscriber::EnvFilter;

use hivemind_demo::{self as demo, DemoError, Role};

/// The tool of hivemind, a nervous system for the processes of one machine.
#[derive(Debug, Parser)]
#[command(name = "hm", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which hive, and where.
#[derive(Debug, Clone, clap::Args)]
struct Place {
    /// The name of the hive.
    #[arg(long, global = true, value_name = "NAME", default_value = "default", value_parser = parse_hive)]
    hive: HiveName,
    /// The runtime directory, instead of $HIVEMIND_DIR, $XDG_RUNTIME_DIR/hivemind or a folder in the
    /// temporary directory.
    #[arg(long, global = true, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// The user who owns the hive, by name or number, instead of $HIVEMIND_OWNER or oneself.
    #[arg(long, global = true, value_name = "USER")]
    owner: Option<String>,
}

impl Place {
    /// Where the hive lives; made if it is missing.
    fn runtime_dir(&self) -> Result<RuntimeDir, RuntimeDirError> {
        RuntimeDir::find(self.dir.as_deref(), &self.hive, self.owner.as_deref())
    }

    /// Options for a node of this hive that never hosts the root: a tool comes and goes.
    fn node(&self, name: &str) -> hivemind::NodeBuilder {
        let mut builder = Node::builder(name).hive(self.hive.as_str()).guest();
        if let Some(dir) = &self.dir {
            builder = builder.dir(dir);
        }
        match &self.owner {
            Some(owner) => builder.owner(owner),
            None => builder,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Host the root of a hive in this process, until Ctrl-C.
    ///
    /// A hive works without: then one of its nodes hosts the root, and another takes over when that one dies.
    /// A root of its own takes over from such a node in order.
    Root {
        /// Supersede a root that gives no answer for so long (stopped, hung, at a breakpoint); at least
        /// 0.05.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_root_timeout, allow_negative_numbers = true)]
        root_timeout: Duration,
        #[command(flatten)]
        links: root::LinkArguments,
    },
    /// Make the keys by which the hosts of a hive know each other.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show the nodes, services and subscriptions of a hive, with rates, lag and loss.
    ///
    /// Everything that moves is read from the segments themselves, twice, so that nobody is disturbed.
    Ls {
        /// Seconds between the two looks that rates are computed from; 0 looks once and shows no rates.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds, allow_negative_numbers = true)]
        interval: Duration,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Print the messages of all services that match a filter, one JSON object a line.
    ///
    /// In a filter, `*` stands for any text within a level of the name, `**` across levels, `?` for one
    /// character, `[ab]` for one of several. The types come with the services; this program need not know
    /// them. It is a subscriber like any other: what it does not print in time is lost to it (and told on
    /// standard error), and a reliable service waits for it.
    Echo {
        /// Which services, such as 'sensors/*'.
        #[arg(value_parser = parse_filter)]
        filter: Filter,
        /// Stop after so many messages.
        #[arg(long, short = 'n', value_name = "N")]
        count: Option<u64>,
    },
    /// Check who may do what in a hive, and explain it.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Start a hive of real processes on live data, kill some of them, and count every message.
    ///
    /// It has a hive of its own, in a folder of its own below the runtime directory or the temporary
    /// directory, and removes it at the end. Exits with 0 only if every surviving pair received or was
    /// told lost what was published, and nothing was lost where the service is reliable.
    Demo {
        /// For about so many seconds, at least 6.
        #[arg(long, value_name = "N", default_value_t = 12,
              value_parser = clap::value_parser!(u64).range(demo::MIN_SECONDS..=demo::MAX_SECONDS))]
        seconds: u64,
        /// Print the figures as one JSON object on the last line.
        #[arg(long)]
        json: bool,
    },
    /// One of the processes of the demo.
    #[command(hide = true)]
    DemoProcess {
        #[arg(value_enum)]
        role: Role,
    },
}

fn parse_hive(text: &str) -> Result<HiveName, NameError> {
    HiveName::parse(text)
}

fn parse_filter(text: &str) -> Result<Filter, FilterError> {
    Filter::parse(text)
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    const MAX_SECONDS: f64 = 3600.0;
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds, such as 0.5".to_owned())?;
    if (0.0..=MAX_SECONDS).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("not between 0 and {MAX_SECONDS} seconds"))
    }
}

fn parse_root_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_seconds(text)?;
    if timeout < MIN_ROOT_TIMEOUT {
        return Err(format!("less than {} seconds", MIN_ROOT_TIMEOUT.as_secs_f64()));
    }
    Ok(timeout)
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum CommandError {
    #[error(transparent)]
    Root(#[from] root::RootError),
    #[error(transparent)]
    Key(#[from] key::KeyCommandError),
    #[error(transparent)]
    Ls(#[from] ls::LsError),
    #[error(transparent)]
    Echo(#[from] echo::EchoError),
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
    #[error(transparent)]
    Demo(#[from] DemoError),
    #[error("{role}: {source}")]
    DemoProcess { role: Role, source: demo::ChildError },
}

impl CommandError {
    /// Whether nobody reads standard output any more.
    fn is_broken_pipe(&self) -> bool {
        match self {
            CommandError::Root(root::RootError::Output(error))
            | CommandError::Ls(ls::LsError::Output(error))
            | CommandError::Echo(echo::EchoError::Output(error))
            | CommandError::Policy(policy::PolicyError::Output(error))
            | CommandError::Demo(DemoError::Output(error)) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hm: {error}");
            match error {
                CommandError::Demo(DemoError::Interrupted) => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(cli: Cli) -> Result<(), CommandError> {
    let place = cli.place;
    match cli.command {
        Command::Root { root_timeout, links } => root::run(&place, root_timeout, &links)?,
        Command::Key(command) => key::run(&command)?,
        Command::Ls { interval, json } => ls::run(&place, interval, json)?,
        Command::Echo { filter, count } => echo::run(&place, &filter, count)?,
        Command::Policy(command) => policy::run(&place, &command)?,
        Command::Demo { seconds, json } => demo::run(place.dir, seconds, json)?,
        Command::DemoProcess { role } => {
            let dir = place.dir.unwrap_or_else(std::env::temp_dir);
            demo::run_process(role, dir).map_err(|source| CommandError::DemoProcess { role, source })?;
        }
    }
    Ok(())
}
