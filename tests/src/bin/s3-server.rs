//! `s3-server DIRECTORY [ADDRESS]`: the S3 server of the tests as a process of its own, that can be killed. It prints its
//! address, and ends when its standard input does.

use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use varve_tests::s3::S3Server;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("which directory?")?;
    let directory = std::path::PathBuf::from(directory);
    let server = match arguments.next() {
        Some(address) => S3Server::start_at(&directory, address.parse::<SocketAddr>()?)?,
        None => S3Server::start(&directory)?,
    };
    println!("{}", server.address());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
