//! Two programs of the README, and somebody has added a field to `Pose` in one of them: `send` said that
//! nobody is there, `recv` waited for ever, and no word was to be found anywhere. A program of its own, since
//! it listens to the log of the whole process.

use hivemind::Node;
use std::fmt::{Debug, Write};
use std::sync::Mutex;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

mod old {
    #[hivemind::message]
    #[derive(Debug)]
    pub(crate) struct Pose {
        pub(crate) id: u64,
        pub(crate) x: f64,
    }
}

mod new {
    #[hivemind::message]
    #[derive(Debug)]
    pub(crate) struct Pose {
        pub(crate) id: u64,
        pub(crate) x: f64,
        pub(crate) frame: String,
    }
}

/// Warnings of this process, each as one line.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        WARNINGS.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

fn warnings() -> Vec<String> {
    let all = WARNINGS.lock().unwrap();
    all.iter().filter(|line| line.contains("another type")).cloned().collect()
}

#[test]
fn a_field_more_in_one_of_two_programs_is_told_on_both_sides_and_once_in_the_log() {
    const PATIENCE: Duration = Duration::from_secs(20);
    const VAIN: Duration = Duration::from_millis(200);
    tracing::subscriber::set_global_default(Log).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let join = |name: &str| Node::builder(name).dir(folder.path()).patience(PATIENCE).join().unwrap();
    let (camera, listener) = (join("camera"), join("listener"));
    let mut subscriber = listener.subscriber::<old::Pose>("sensors/*").unwrap();
    let mut publisher = camera.publisher::<new::Pose>("sensors/pose").unwrap();
    assert_eq!(publisher.send(&new::Pose { id: 1, x: 0.0, frame: "map".to_owned() }).unwrap(), 0);

    // The root says so, and may take a while on a busy machine.
    let reported = |count: usize| {
        let start = std::time::Instant::now();
        while subscriber.skipped().len() < count {
            assert!(start.elapsed() < PATIENCE, "{count} services are reported");
            std::thread::yield_now();
        }
    };
    reported(1);
    let error = subscriber.wait_for_publishers(1, Duration::ZERO).unwrap_err();
    let said = "sensors/pose carries Pose in node camera, not Pose (Pose.frame is missing here)";
    assert_eq!(error.mismatch.as_deref(), Some(said));
    assert!(error.to_string().contains(said) && error.to_string().contains("same type"), "{error}");
    assert_eq!(subscriber.skipped()[0].to_string(), said);

    // It is asked for the other side.
    let error = (0..100)
        .map(|_| publisher.wait_for_subscribers(1, VAIN).unwrap_err())
        .find(|error| error.mismatch.is_some())
        .expect("the root says who waits");
    let said = "`sensors/*` in node listener expects Pose, not Pose (Pose.frame is missing there)";
    assert_eq!(error.mismatch.as_deref(), Some(said));

    // Another publisher, and another service of that type, are no news.
    let _second = camera.publisher::<new::Pose>("sensors/pose").unwrap();
    let _other = camera.publisher::<new::Pose>("sensors/other").unwrap();
    reported(2);
    let [warning] = &warnings()[..] else { panic!("{:?}", warnings()) };
    for part in ["sensors/*", "sensors/pose", "camera", "Pose.frame is missing here"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert!(subscriber.try_recv().unwrap().is_none(), "it goes on, and has got nothing");
}
