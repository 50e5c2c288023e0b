//! `larder relay`: answers Nix in place of caches that may be unavailable.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::arguments::seconds;
use super::context::Context;
use super::output;
use super::signals::stopped;
use crate::base::error::{Area, Error, Result};
use crate::base::exit::Exit;
use crate::client::relay::{Caches, Event, serve};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The caches; Nix reads the cache NAME at `http://ADDRESS/NAME`
    #[arg(required = true, value_name = "NAME=URL")]
    caches: Vec<String>,
    /// Listen at this address, by default at the socket that a service manager passes as standard input
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Exit after this many seconds without a request
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    exit_when_idle: Option<u64>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Exit> {
    let caches = Caches::new(&args.caches, context.ca_file().as_deref(), Box::new(show))?;
    let listener = match args.listen {
        Some(address) => listen_at(address).await?,
        None => passed_socket().map_err(|error| {
            Error::permanent(Area::Usage, "cannot listen at the standard input")
                .because(error)
                .hint("name an address, `--listen 127.0.0.1:8390`, or let a service manager pass a socket")
        })?,
    };
    serve(listener, Arc::new(caches), args.exit_when_idle.map(Duration::from_secs), stopped()?).await;
    Ok(Exit::Ok)
}

fn show(event: Event<'_>) {
    match event {
        Event::Unavailable { cache, reason } => output::warn(&format!(
            "{cache} is unavailable, so the relay tells Nix that it has nothing: {reason}"
        )),
        Event::Available { cache } => output::say(&format!("{cache} answers again")),
        Event::Hidden { cache, path, reason } => output::warn(&format!(
            "{cache} does not give `{path}` ({reason}), so the relay tells Nix that the path is absent. After status 401, let everybody read the cache, or put a password into `netrc-file`"
        )),
    }
}

async fn listen_at(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        Error::permanent(Area::General, format!("cannot listen at `{address}`"))
            .because(error)
            .hint("choose another port: `--listen 127.0.0.1:8390`")
    })?;
    // The port is chosen by the system if `address` has port 0.
    if let Ok(address) = listener.local_addr() {
        output::say(&format!("listening at http://{address}"));
    }
    Ok(listener)
}

/// The socket that is the standard input.
fn passed_socket() -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
