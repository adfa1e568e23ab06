//! Who has no business with a site's daemon gets nothing: no certificate, one of another authority, one for
//! another site, one that was called off.

use crate::common::Setup;
use crate::common::commands::eventually;
use globalfs::Client;
use globalfs_controlplane::ca::Authority;
use globalfs_controlplane::files::CertFiles;
use globalfs_proto::{FsError, FsResult, PeerIdentity, Request, SiteName};
use globalfs_transport::{Endpoint, Identity, Options, Peer};
use quinn::rustls;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

const BUDGET: Duration = Duration::from_secs(20);

fn identity(files: &CertFiles) -> Identity {
    Identity::from_pem(files.certificate.as_bytes(), files.key.as_bytes(), files.ca.as_bytes()).unwrap()
}

fn site(name: &str) -> PeerIdentity {
    PeerIdentity::Site(SiteName::new(name).unwrap())
}

/// Asks the daemon of `whom` for a sign of life, as who `files` say.
fn ping(files: &CertFiles, whom: &str, address: SocketAddr) -> FsResult<()> {
    Runtime::new().unwrap().block_on(async {
        let endpoint = Endpoint::bind(Options::client(), identity(files)).unwrap();
        let peer = Peer::new(endpoint, address.to_string(), site(whom));
        peer.request(&Request::Ping, BUDGET).await.map(drop)
    })
}

#[track_caller]
fn refused(files: &CertFiles, whom: &str, address: SocketAddr, words: &str) {
    match ping(files, whom, address) {
        Err(FsError::Refused(reason)) if reason.contains(words) => {}
        other => panic!("expected to be refused with '{words}': {other:?}"),
    }
}

fn node_files(config: &Path) -> CertFiles {
    CertFiles::load(&config.with_extension("")).unwrap()
}

#[test]
fn certificates_open_only_their_own_doors() {
    let mut test = Setup::default().start(|_| {});
    let (onprem, cloud) = (test.cluster.site_address("onprem"), test.cluster.site_address("cloud"));
    let node = node_files(&test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap());
    ping(&node, "cloud", cloud).unwrap();
    refused(&node, "onprem", onprem, "has no business with the daemon of site onprem");
    let of_site = CertFiles::load(&test.cluster.dir().join("cloud/state")).unwrap();
    ping(&of_site, "onprem", onprem).unwrap();
    refused(&of_site, "cloud", cloud, "has no business with the daemon of site cloud");
    let admin = CertFiles::load(&test.cluster.dir().join("coordinator/admin")).unwrap();
    refused(&admin, "cloud", cloud, "has no business");
    refused(&node, "cloud", onprem, "the peer at this address is not site cloud");

    // An authority that anybody can make for himself, trusted by nobody here.
    let authority = Authority::open(&test.scratch.path().join("forger")).unwrap();
    for who in [site("onprem"), of_site.identity().unwrap(), node.identity().unwrap(), PeerIdentity::Admin] {
        let mut forged = authority.own_files(&who).unwrap();
        forged.ca = format!("{}{}", node.ca, forged.ca);
        refused(&forged, "cloud", cloud, "does not know the CA that signed our certificate");
    }

    // Registered anew: the older key of the same name is no longer good.
    let renewed = node_files(&test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap());
    assert_ne!(renewed.key, node.key);
    ping(&renewed, "cloud", cloud).unwrap();
    refused(&node, "cloud", cloud, "is not registered, or no longer; join again");
}

#[test]
fn without_a_certificate_nothing_is_served() {
    let test = Setup::default().start(|_| {});
    let address = test.cluster.site_address("onprem");
    let ca = CertFiles::load(&test.cluster.dir().join("cloud/state")).unwrap().ca;
    let said = Runtime::new().unwrap().block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(anonymous(&ca), address, &site("onprem").host()).unwrap();
        // TLS 1.3 lets a client send before the server has judged it, and end with the verdict.
        let ended = match connecting.await {
            Ok(connection) => tokio::time::timeout(BUDGET, connection.closed()).await.unwrap(),
            Err(error) => error,
        };
        ended.to_string()
    });
    assert!(said.contains("certificate"), "{said}");
    let metrics = test.cluster.metrics("onprem").unwrap();
    assert_eq!(metrics.sum("globalfs_served_entries_total"), 0.0);
}

/// A client that trusts the cluster and has nothing to show.
fn anonymous(ca: &str) -> quinn::ClientConfig {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"globalfs/1".to_vec()];
    quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap()))
}

#[test]
fn a_removed_node_is_out_within_a_heartbeat() {
    let mut test = Setup::default().start(|origin| std::fs::write(origin.join("f"), "text").unwrap());
    let config = test.cluster.add_node("n1", "cloud", "64MiB", "").unwrap();
    let runtime = Runtime::new().unwrap();
    let client = runtime.block_on(Client::connect(&config)).unwrap();
    assert_eq!(runtime.block_on(client.stat("/f")).unwrap().size, 4);
    test.cluster.admin(&["node", "remove", "n1", "--site", "cloud"]).unwrap();
    let reason = eventually("the refusal", || match runtime.block_on(client.stat("/f")) {
        Err(FsError::Refused(reason)) => Ok(reason),
        other => Err(format!("{other:?}")),
    });
    assert!(reason.contains("is not registered, or no longer; join again with a new token"), "{reason}");
    let status = crate::common::commands::globalfs(&["status"], &config);
    status.fails(1, &["node n1 of site cloud is not registered", "join again with a new token"]);
}
