//! The data directory: one server at a time, and the secret of development mode.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::config::Secret;

/// Holds the data directory until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

/// Makes the directory where there is none and locks it (`flock` on `lock`). The error is one line that names it.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("DATA_DIR {}: {what}: {e}", data_dir.display());
    create(data_dir).map_err(|e| failed("cannot be made", &e))?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(data_dir.join("lock")).map_err(|e| failed("cannot be written", &e))?;
    match file.try_lock() {
        Ok(()) => Ok(DataDirLock(file)),
        Err(TryLockError::WouldBlock) => {
            Err(format!("DATA_DIR {}: another server is running on it", data_dir.display()))
        }
        Err(TryLockError::Error(e)) => Err(failed("cannot be locked", &e)),
    }
}

fn create(data_dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)
}

/// The secret that signs tokens in development mode: kept in `dev-secret` (0600), made when there is none. `true`: it
/// was made by this call. Two processes that start at once get the same one.
pub fn dev_secret(data_dir: &Path) -> io::Result<(Secret, bool)> {
    create(data_dir)?;
    let path = data_dir.join("dev-secret");
    if let Some(secret) = read_secret(&path)? {
        return Ok((secret, false));
    }
    let random = random_hex::<32>()?;
    let draft = data_dir.join(format!("dev-secret.{}.new", random_hex::<8>()?));
    let made = write_secret(&draft, &random).and_then(|()| {
        // A link, unlike a rename, does not replace what another process has put there meanwhile.
        match fs::hard_link(&draft, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            // File systems without links; the window is that of one rename.
            Err(_) => fs::rename(&draft, &path).map(|()| true),
            Ok(()) => Ok(true),
        }
    });
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let made = made?;
    File::open(data_dir)?.sync_all()?;
    let secret = read_secret(&path)?.ok_or_else(|| io::Error::other("dev-secret vanished"))?;
    Ok((secret, made))
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn read_secret(path: &Path) -> io::Result<Option<Secret>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(io::Error::other("dev-secret can be read by others; delete it, and a new one is made"));
    }
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text)?;
    match text.trim() {
        secret if secret.len() >= 32 => Ok(Some(Secret::new(secret))),
        _ => Err(io::Error::other("dev-secret is damaged; delete it, and a new one is made")),
    }
}

/// `N` random bytes in hexadecimal.
pub fn random_hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0; N];
    openssl::rand::rand_bytes(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory that goes away with the test.
    pub struct TempDir(pub PathBuf);

    impl TempDir {
        pub fn new() -> Self {
            let path = std::env::temp_dir().join(format!("webrtc-engine-{}", random_hex::<8>().unwrap()));
            fs::create_dir(&path).unwrap();
            TempDir(path)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn one_server_per_directory() {
        let temp = TempDir::new();
        let dir = temp.0.join("a/b");
        let held = lock(&dir).unwrap();
        let refused = lock(&dir).unwrap_err();
        assert!(refused.contains(&dir.display().to_string()) && refused.contains("another server"), "{refused}");
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        drop(held);
        assert!(lock(&dir).is_ok());

        fs::write(temp.0.join("file"), "").unwrap();
        assert!(lock(&temp.0.join("file")).unwrap_err().starts_with("DATA_DIR "));
    }

    #[test]
    fn the_secret_is_made_once_and_kept_private() {
        let temp = TempDir::new();
        let dir = temp.0.join("data");
        let (secret, made) = dev_secret(&dir).unwrap();
        assert!(made && secret.expose().len() == 64);
        assert_eq!(dev_secret(&dir).unwrap(), (secret.clone(), false));
        let path = dir.join("dev-secret");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no draft stays behind");
        assert_ne!(dev_secret(&temp.0.join("other")).unwrap().0, secret);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(dev_secret(&dir).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        assert!(dev_secret(&dir).is_err());
    }

    #[test]
    fn processes_that_start_at_once_agree() {
        let temp = TempDir::new();
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| dev_secret(&temp.0).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(results.iter().all(|(secret, _)| *secret == results[0].0));
        assert_eq!(results.iter().filter(|(_, made)| *made).count(), 1);
    }
}
