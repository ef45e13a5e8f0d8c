//! The process of a scratch server.

use super::at;
use super::place::Place;
use super::settings::bindir;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use varve_core::backup::BackupError;

/// How long a server may take to quit before it is killed.
const QUIT: Duration = Duration::from_secs(6);

/// Tells a server to quit, and kills it where it does not.
pub fn end(pid: i32, ended: &mut dyn FnMut() -> bool) {
    // SAFETY: signals to our own child, whose id is not given to another process before we have waited for it.
    unsafe { libc::kill(pid, libc::SIGQUIT) };
    let begun = Instant::now();
    while begun.elapsed() < QUIT {
        if ended() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // SAFETY: as above; its own children see that it is gone.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// A running server, told to quit when dropped.
pub struct Server {
    /// Its postmaster.
    pub child: Child,
}

impl Server {
    /// Starts one, whose settings are written.
    ///
    /// # Errors
    /// What the system says.
    pub fn spawn(place: &Place) -> Result<Self, BackupError> {
        let log = File::create(place.log()).map_err(at(&place.path))?;
        let errors = log.try_clone().map_err(at(&place.path))?;
        let mut command = Command::new(bindir().join("postgres"));
        command
            .arg("-D")
            .arg(place.data())
            .arg("-c")
            .arg(format!(
                "config_file={}",
                place.path.join("postgresql.conf").display()
            ))
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| {
                let name = name.to_string_lossy();
                ["PATH", "LANG", "TZ", "HOME", "LD_LIBRARY_PATH"].contains(&name.as_ref())
                    || name.starts_with("LC_")
            }))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let me = std::process::id();
        // SAFETY: between fork and exec only these two calls of the system are made.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // We may have ended before it was set.
                match libc::getppid() as u32 == me {
                    true => Ok(()),
                    false => Err(io::ErrorKind::Other.into()),
                }
            });
        }
        let child = command.spawn().map_err(at(&bindir().join("postgres")))?;
        let server = Server { child };
        place.note_server(Some(server.pid()));
        Ok(server)
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: our own child, which we have not waited for.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Whether it runs no more.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.has_ended() {
            end(self.pid(), &mut || {
                !matches!(self.child.try_wait(), Ok(None))
            });
            // Killed at last, it is gone at once.
            let _ = self.child.wait();
        }
    }
}
