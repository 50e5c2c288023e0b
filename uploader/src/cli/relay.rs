//! `larder relay`.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::agent::stopped;
use super::context::Context;
use super::output;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::client::relay::{Caches, News, serve};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The caches; Nix reads one under `http://ADDRESS/NAME`
    #[arg(required = true, value_name = "NAME=URL")]
    caches: Vec<String>,
    /// Where to listen; default: at the socket that is the standard input, as a service manager passes it
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Exit when nothing has been asked for so many seconds
    #[arg(long, value_name = "SECONDS")]
    exit_when_idle: Option<u64>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let caches = Caches::new(&args.caches, context.ca_file().as_deref(), Box::new(tell))?;
    let listener = match args.listen {
        Some(address) => TcpListener::bind(address).await.map_err(|error| {
            Error::permanent(Area::General, format!("cannot listen at `{address}`"))
                .because(error)
                .hint("name a port that is free: `--listen 127.0.0.1:8390`")
        })?,
        None => passed().map_err(|error| {
            Error::permanent(Area::Usage, "cannot listen at the standard input")
                .because(error)
                .hint("name an address, `--listen 127.0.0.1:8390`, or have a service manager pass a socket")
        })?,
    };
    if let (Some(_), Ok(address)) = (args.listen, listener.local_addr()) {
        output::say(&format!("listening at http://{address}"));
    }
    serve(listener, Arc::new(caches), args.exit_when_idle.map(Duration::from_secs), stopped()?).await;
    Ok(Exit::Ok)
}

fn tell(news: News<'_>) {
    match news {
        News::Away(name, why) => {
            output::warn(&format!("{name} is away, and Nix is told that it has nothing: {why}"));
        }
        News::Back(name) => output::say(&format!("{name} answers again")),
        News::Refused(name, path, status) => output::warn(&format!(
            "{name} refuses `{path}` with status {status}, and Nix is told that it is absent: anonymous reading, or a password in `netrc-file`, may be missing"
        )),
    }
}

fn passed() -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
