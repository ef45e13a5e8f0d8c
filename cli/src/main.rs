//! The program `varve`: takes, lists, verifies and restores backups with nothing but their stores. `docs/cli.md` is the
//! users' page.

mod backup;
mod common;
mod copy;
mod exit;
mod expire;
mod list;
mod plan;
mod progress;
mod restore;
mod signals;
mod start;
mod stores;
mod text;
mod verify;
mod wal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Backups of PostgreSQL in object stores: taken, listed, verified, copied and restored without varve's server.
#[derive(Parser)]
#[command(name = "varve", version, after_help = exit::HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Takes a base backup of a running server into a store
    Backup(backup::Arguments),
    /// Lists the backups in stores, and the WAL
    List(list::Arguments),
    /// Reads backups and WAL again and names all that is damaged or missing
    Verify(verify::Arguments),
    /// Restores a backup into a new data directory
    Restore(restore::Arguments),
    /// Says what a restore would do, and how long it would take
    Plan(plan::Arguments),
    /// Copies to another store what that has not
    Copy(copy::Arguments),
    /// Removes old backups, and WAL that no other backup needs; without --yes it only says which
    Expire(expire::Arguments),
    /// Fetches a file of WAL: for restore_command
    WalGet(wal::GetArguments),
    /// Archives a file of WAL: for archive_command
    WalPut(wal::PutArguments),
}

fn main() -> ExitCode {
    // The server takes most of what this command answers for the end of WAL.
    let fetches_wal = std::env::args_os().nth(1).is_some_and(|a| a == "wal-get");
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command,
        Err(error) if fetches_wal && error.use_stderr() => {
            let _ = error.print();
            return wal::UNKNOWN.into();
        }
        Err(error) => error.exit(),
    };
    if let Err(error) = signals::listen() {
        let code = exit::failed(error);
        return match fetches_wal {
            true => wal::UNKNOWN.into(),
            false => code,
        };
    }
    let result = match command {
        Command::Backup(arguments) => backup::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Restore(arguments) => restore::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Copy(arguments) => copy::run(&arguments),
        Command::Expire(arguments) => expire::run(&arguments),
        // The server takes what a command answers for more than it is: see there.
        Command::WalGet(arguments) => {
            let get = std::panic::catch_unwind(|| wal::get(&arguments));
            return get.unwrap_or_else(|_| wal::UNKNOWN.into());
        }
        Command::WalPut(arguments) => wal::put(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => exit::failed(error),
    }
}
