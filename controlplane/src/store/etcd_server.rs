//! Starts a real etcd for tests: free loopback ports, a directory of the caller, gone when dropped.
//!
//! Compiled always, so that whole-system tests can use it too; nothing in the product does.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PROGRAM: &str = "etcd";
const START_DEADLINE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Another program may take a free port between its choice and its use.
const MAX_STARTS: usize = 5;

/// Whether [`EtcdServer::start`] has a program to run; Debian has it in `etcd-server`.
pub fn is_etcd_installed() -> bool {
    Command::new(PROGRAM)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A running etcd, killed on drop. Without fsync: it is for tests.
#[derive(Debug)]
pub struct EtcdServer {
    child: Child,
    data_dir: PathBuf,
    ports: Ports,
    tls: Option<EtcdTls>,
}

/// PEM files with which a server asks its clients for certificates.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    /// The CA of the clients.
    pub ca: PathBuf,
    /// The server's certificate, good for 127.0.0.1; etcd uses it as a client's too.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    client: u16,
    peer: u16,
    /// Health in plain text, also where clients need TLS.
    health: u16,
}

impl EtcdServer {
    /// Starts one with its data in `data_dir` and waits until it is healthy. Blocks.
    pub fn start(data_dir: &Path, tls: Option<EtcdTls>) -> std::io::Result<EtcdServer> {
        let mut failure = None;
        for _ in 0..MAX_STARTS {
            let ports = free_ports()?;
            let child = spawn(data_dir, ports, tls.as_ref())?;
            let mut server = EtcdServer { child, data_dir: data_dir.to_owned(), ports, tls: tls.clone() };
            match server.wait_until_healthy() {
                Ok(()) => return Ok(server),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| std::io::Error::other("etcd was not started")))
    }

    /// Where clients connect, as `http://127.0.0.1:PORT`, or `https` with TLS.
    pub fn endpoint(&self) -> String {
        client_url(self.ports, self.tls.as_ref())
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again after [`EtcdServer::kill`] with the same data and ports. Blocks until healthy.
    pub fn restart(&mut self) -> std::io::Result<()> {
        self.child = spawn(&self.data_dir, self.ports, self.tls.as_ref())?;
        self.wait_until_healthy()
    }

    fn wait_until_healthy(&mut self) -> std::io::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Err(std::io::Error::other(format!("etcd ended with {status}")));
            }
            if is_healthy(self.ports.health) {
                return Ok(());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "etcd is not healthy in time"))
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        self.kill().ok();
    }
}

fn client_url(ports: Ports, tls: Option<&EtcdTls>) -> String {
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("{scheme}://127.0.0.1:{}", ports.client)
}

fn spawn(data_dir: &Path, ports: Ports, tls: Option<&EtcdTls>) -> std::io::Result<Child> {
    let client = client_url(ports, tls);
    let peer = format!("http://127.0.0.1:{}", ports.peer);
    let mut command = Command::new(PROGRAM);
    command
        .args(["--name", "test", "--unsafe-no-fsync", "--log-level", "error"])
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("test={peer}")])
        .args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", ports.health)])
        .arg("--data-dir")
        .arg(data_dir);
    if let Some(EtcdTls { ca, cert, key }) = tls {
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
        command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn free_ports() -> std::io::Result<Ports> {
    // All are held until all are known, so they differ.
    let held = [bind_any()?, bind_any()?, bind_any()?];
    let port = |i: usize| held[i].local_addr().map(|address| address.port());
    Ok(Ports { client: port(0)?, peer: port(1)?, health: port(2)? })
}

fn bind_any() -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}
