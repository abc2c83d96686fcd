//! Keys of a hive: a host that has one belongs to it.
//!
//! ```text
//! <folder>/hive.pem       the authority: its certificate and its private key; stays where keys are made
//! <folder>/<host>.pem     for one host: its certificate, its private key, the certificate of the authority
//! ```
//!
//! Files have mode 0600 and are never overwritten. They are written under another name and then linked to
//! their own. A process that dies here leaves at most a file `*.new`, which the next one replaces.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The name of the authority's file.
pub const AUTHORITY: &str = "hive.pem";
/// A file that is longer is no key.
const MAX_KEY_FILE: u64 = 64 * 1024;
/// The longest name that a certificate has room for, in bytes.
const MAX_NAME: usize = 63;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file cannot be read or written. Look at it, and at its folder.
    #[error("cannot {doing} {path}: {error}", path = path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is a key already. Use it, or remove it if nobody needs it.
    #[error("{path} is there already; use it, or remove it if no host needs it any more", path = path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// Others can read the private key. Close it, and make a new one if somebody may have.
    #[error("{path} can be read by others (mode {mode:03o}); `chmod 600` it, and make a new one if somebody may have read it", path = path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file is no key of this kind. `hm key issue` makes those of hosts.
    #[error("{path} is no key: {why}; `hm key issue` makes one", path = path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No certificate has room for this name, or it is none.
    #[error(
        "{name:?} cannot be the name of a host with a key: use 1 to {MAX_NAME} letters, digits, dots and hyphens"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The library refuses the key. Make a new one.
    #[error("the key is unfit: {why}; make a new one with `hm key`")]
    Unfit {
        /// Why.
        why: String,
    },
}

impl KeyError {
    pub(super) fn unfit(error: &dyn std::error::Error) -> KeyError {
        KeyError::Unfit { why: error.to_string() }
    }
}

/// The key of one host.
#[derive(Debug)]
pub struct HostKey {
    host: String,
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl HostKey {
    /// Reads the file that `hm key issue` has made.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<HostKey, KeyError> {
        let text = read_private(path)?;
        let no_key = |why: String| KeyError::NoKey { path: path.to_owned(), why };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|error| no_key(format!("{error:?}")))?;
        let private = PrivateKeyDer::from_pem_slice(&text).map_err(|error| no_key(format!("{error:?}")))?;
        let [own, authority] = <[_; 2]>::try_from(certificates).map_err(|found| {
            no_key(format!("it has {} certificates, not those of a host and its authority", found.len()))
        })?;
        let host = webpki::EndEntityCert::try_from(&own)
            .ok()
            .and_then(|certificate| certificate.valid_dns_names().next().map(str::to_owned))
            .ok_or_else(|| no_key("its certificate names no host".to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(|error| no_key(error.to_string()))?;
        Ok(HostKey { host, chain: vec![own], private, roots: Arc::new(roots) })
    }

    /// The name of the host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        self.private.clone_key()
    }

    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

/// Makes the authority of a hive in a folder. Returns its file.
///
/// # Errors
/// [`KeyError`]; nothing is left then.
pub fn new_authority(folder: &Path) -> Result<PathBuf, KeyError> {
    let key = KeyPair::generate().map_err(|error| KeyError::unfit(&error))?;
    let certificate = authority_params().self_signed(&key).map_err(|error| KeyError::unfit(&error))?;
    fs::create_dir_all(folder).map_err(|error| KeyError::File {
        doing: "make",
        path: folder.to_owned(),
        error,
    })?;
    let path = folder.join(AUTHORITY);
    // The key first: that is what it is read for.
    write_new(&path, &format!("{}{}", key.serialize_pem(), certificate.pem()))?;
    Ok(path)
}

/// The same for every authority: what tells them apart is the key.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "hive authority");
    params
}

/// Makes the key of a host with the authority in a folder. Returns its file.
///
/// # Errors
/// [`KeyError`]; nothing is left then.
pub fn issue(folder: &Path, host: &str) -> Result<PathBuf, KeyError> {
    let is_name = !host.is_empty()
        && host.len() <= MAX_NAME
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
        && host.split('.').all(|part| !part.is_empty() && !part.starts_with('-') && !part.ends_with('-'))
        && host != "hive";
    if !is_name {
        return Err(KeyError::Name { name: host.to_owned() });
    }
    let authority_file = folder.join(AUTHORITY);
    let authority = read_private(&authority_file)?;
    let authority = String::from_utf8(authority)
        .map_err(|_| KeyError::NoKey { path: authority_file.clone(), why: "it is no text".to_owned() })?;
    let no_key =
        |error: rcgen::Error| KeyError::NoKey { path: authority_file.clone(), why: error.to_string() };
    let authority_key = KeyPair::from_pem(&authority).map_err(no_key)?;
    let issuer = Issuer::new(authority_params(), authority_key);
    let key = KeyPair::generate().map_err(|error| KeyError::unfit(&error))?;
    let mut params =
        CertificateParams::new(vec![host.to_owned()]).map_err(|error| KeyError::unfit(&error))?;
    params.distinguished_name.push(DnType::CommonName, host);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &issuer).map_err(|error| KeyError::unfit(&error))?;
    let start = authority.find("-----BEGIN CERTIFICATE").unwrap_or(0);
    let end = authority.find("-----END CERTIFICATE-----").map_or(authority.len(), |at| at + 25);
    let path = folder.join(format!("{host}.pem"));
    let text = format!("{}{}{}\n", certificate.pem(), key.serialize_pem(), &authority[start..end]);
    write_new(&path, &text)?;
    Ok(path)
}

fn read_private(path: &Path) -> Result<Vec<u8>, KeyError> {
    let file = |doing, error| KeyError::File { doing, path: path.to_owned(), error };
    let opened = File::open(path).map_err(|error| file("open", error))?;
    let found = opened.metadata().map_err(|error| file("look at", error))?;
    if found.mode() & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode: found.mode() & 0o777 });
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(opened, MAX_KEY_FILE), &mut text)
        .map_err(|error| file("read", error))?;
    Ok(text)
}

fn write_new(path: &Path, text: &str) -> Result<(), KeyError> {
    let file = |doing, error| KeyError::File { doing, path: path.to_owned(), error };
    let new = path.with_extension("new");
    let _left_by_one_that_died = fs::remove_file(&new);
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .map_err(|error| file("write", error))?;
    let written = out.write_all(text.as_bytes()).and_then(|()| out.sync_all());
    // A link, not a rename: that would overwrite.
    let linked = written.map_err(|error| file("write", error)).and_then(|()| {
        fs::hard_link(&new, path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            _ => file("write", error),
        })
    });
    let _gone = fs::remove_file(&new);
    linked
}
