//! What the restored server is told of recovery.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::super::error::BackupError;
use super::super::lsn::Lsn;
use super::super::timestamp::Timestamp;

/// How the restored server recovers. Where nothing is said it replays all WAL that it finds, and is open for writing then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The command that fetches a file of WAL: `restore_command`.
    pub restore_command: Option<String>,
    /// Ends at a moment: `recovery_target_time`.
    pub time: Option<Timestamp>,
    /// Ends at a position: `recovery_target_lsn`.
    pub lsn: Option<Lsn>,
    /// Ends with a transaction: `recovery_target_xid`.
    pub xid: Option<u64>,
    /// Ends at a named restore point: `recovery_target_name`.
    pub name: Option<String>,
    /// Ends as soon as the backup is consistent: `recovery_target = 'immediate'`.
    pub immediate: bool,
    /// Ends before the target, not after it.
    pub exclusive: bool,
    /// The timeline to follow: `recovery_target_timeline`.
    pub timeline: Option<String>,
    /// What comes after the target, `pause`, `promote` or `shutdown`: `recovery_target_action`.
    pub action: Option<String>,
    /// Other settings, by name.
    pub settings: Vec<(String, String)>,
}

impl Recovery {
    fn settings(&self) -> Vec<(&str, String)> {
        let mut lines = Vec::new();
        let mut add = |name, value: Option<String>| lines.extend(value.map(|value| (name, value)));
        add("restore_command", self.restore_command.clone());
        add(
            "recovery_target_time",
            self.time.map(Timestamp::for_postgresql),
        );
        add("recovery_target_lsn", self.lsn.map(|lsn| lsn.to_string()));
        add("recovery_target_xid", self.xid.map(|xid| xid.to_string()));
        add("recovery_target_name", self.name.clone());
        add(
            "recovery_target",
            self.immediate.then(|| "immediate".to_owned()),
        );
        add(
            "recovery_target_inclusive",
            self.exclusive.then(|| "off".to_owned()),
        );
        add("recovery_target_timeline", self.timeline.clone());
        add("recovery_target_action", self.action.clone());
        lines.extend(
            self.settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        lines
    }

    /// # Errors
    /// [`BackupError::Refused`] for more than one target, or a setting that is none.
    pub(super) fn check(&self) -> Result<(), BackupError> {
        let targets = [
            self.time.is_some(),
            self.lsn.is_some(),
            self.xid.is_some(),
            self.name.is_some(),
            self.immediate,
        ];
        if targets.into_iter().filter(|target| *target).count() > 1 {
            return Err(BackupError::refused(
                "recovery can have one target only",
                "Say one of time, lsn, xid, name and immediate.",
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
        for (name, value) in self.settings() {
            if name.is_empty() || !name.chars().all(plain) {
                return Err(BackupError::refused(
                    format!("\"{name}\" is no name of a setting"),
                    "Settings are written name=value.",
                ));
            }
            if value.contains(['\n', '\r', '\0']) {
                return Err(BackupError::refused(
                    format!("the value of {name} has more than one line"),
                    "",
                ));
            }
        }
        Ok(())
    }

    /// Writes `recovery.signal`, and the settings to the end of `postgresql.auto.conf`, where they have the last word. What an
    /// earlier restore has left there goes: it would end this one at its own target. So does `standby.signal`, of a backup
    /// that was taken of a standby.
    pub(super) fn write(&self, data: &Path) -> Result<(), BackupError> {
        let path = data.join("postgresql.auto.conf");
        let failed = |error| BackupError::io(&path, error);
        let before = match fs::read(&path) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        let mut text: Vec<u8> = Vec::new();
        for line in before.split_inclusive(|byte| *byte == b'\n') {
            if !is_of_recovery(line) {
                text.extend_from_slice(line);
            }
        }
        if text.last().is_some_and(|byte| *byte != b'\n') {
            text.push(b'\n');
        }
        text.extend_from_slice(COMMENT);
        for (name, value) in self.settings() {
            text.extend_from_slice(format!("{name} = {}\n", quoted(&value)).as_bytes());
        }
        fs::write(&path, text).map_err(failed)?;
        let standby = data.join("standby.signal");
        match fs::remove_file(&standby) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(BackupError::io(&standby, error));
            }
            _ => {}
        }
        let signal = data.join("recovery.signal");
        File::create(&signal).map_err(|error| BackupError::io(&signal, error))?;
        Ok(())
    }
}

/// What stands above the settings.
const COMMENT: &[u8] = b"# Written by varve restore.\n";

/// Whether a line of a file of settings is about a recovery.
fn is_of_recovery(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let end = line
        .iter()
        .position(|byte| *byte == b'=' || byte.is_ascii_whitespace());
    let name = line.get(..end.unwrap_or(line.len())).unwrap_or_default();
    let name = name.to_ascii_lowercase();
    let commands: [&[u8]; 3] = [
        b"restore_command",
        b"archive_cleanup_command",
        b"recovery_end_command",
    ];
    line == COMMENT.trim_ascii()
        || commands.contains(&name.as_slice())
        || name.starts_with(b"recovery_target")
}

/// A value as a file of settings has it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_restore_left_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postgresql.auto.conf");
        let before = "# Do not edit\nwork_mem = '8MB'\n# Written by varve restore.\nrestore_command = 'old'\nRecovery_Target_Time='x'\n  recovery_target_action = 'promote'\nport=5433";
        fs::write(&path, before).unwrap();
        fs::write(directory.path().join("standby.signal"), "").unwrap();
        let recovery = Recovery {
            immediate: true,
            ..Recovery::default()
        };
        recovery.write(directory.path()).unwrap();
        let after = fs::read_to_string(&path).unwrap();
        let kept = "# Do not edit\nwork_mem = '8MB'\nport=5433\n# Written by varve restore.\n";
        assert!(after.starts_with(kept), "{after}");
        assert!(after.contains("recovery_target = 'immediate'"), "{after}");
        assert!(!after.contains("old") && !after.contains("'x'"), "{after}");
        assert!(directory.path().join("recovery.signal").exists());
        assert!(!directory.path().join("standby.signal").exists());
        // As often as one likes.
        recovery.write(directory.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
    }

    #[test]
    fn values_are_quoted_and_targets_exclude_each_other() {
        assert_eq!(quoted("a'b\\c"), "'a''b\\\\c'");
        let mut recovery = Recovery {
            xid: Some(7),
            ..Recovery::default()
        };
        assert!(recovery.check().is_ok());
        recovery.immediate = true;
        assert!(recovery.check().is_err());
        let strange = Recovery {
            settings: vec![("a = b\nc".to_owned(), String::new())],
            ..Recovery::default()
        };
        assert!(strange.check().is_err());
    }
}
