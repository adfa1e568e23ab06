//! Who gets in, who does not, and what each is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use globalfs_proto::{FsError, PeerIdentity, Request};
use globalfs_transport::{Endpoint, Identity, IdentityError, options};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// Serves as the site `onprem` with `identity`.
fn serve_as(identity: Identity) -> Endpoint {
    let server = endpoint(identity);
    common::serve(&server, Arc::new(Scripted::default()), &CancellationToken::new());
    server
}

async fn refusal(client: Identity, server: &Endpoint, name: &str) -> String {
    let client = endpoint(client);
    let peer = peer(&client, server.local_addr(), name);
    let why = || async {
        match peer.request(&Request::Ping, BUDGET).await.err() {
            Some(FsError::Refused(why)) => why,
            other => panic!("not refused: {other:?}"),
        }
    };
    let first = why().await;
    assert_eq!(why().await, first, "and again");
    first
}

fn contains(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "'{text}' lacks '{part}'"));
}

#[tokio::test]
async fn a_server_of_another_ca_is_not_trusted() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = serve_as(theirs.identity(&site("onprem")));
    let why = refusal(ours.identity(&site("cloud")), &server, "onprem").await;
    contains(&why, &["the certificate of site onprem", "not signed by our CA"]);
}

#[tokio::test]
async fn a_client_of_another_ca_is_turned_away() {
    let (ours, theirs) = (Ca::new(), Ca::new());
    let server = serve_as(ours.identity(&site("onprem")));
    let both = format!("{}{}", ours.pem, theirs.pem);
    let why = refusal(theirs.identity_trusting(&site("cloud"), &both), &server, "onprem").await;
    contains(&why, &["site onprem", "does not know the CA that signed our certificate"]);
    eventually("the server counts it", || server.counters().connections_refused >= 1).await;
    assert_eq!(server.counters().requests_served, 0);
}

#[tokio::test]
async fn a_server_of_another_name_is_not_trusted() {
    let ca = Ca::new();
    let server = serve_as(ca.identity(&site("elsewhere")));
    let why = refusal(ca.identity(&site("cloud")), &server, "onprem").await;
    contains(&why, &["not site onprem", "elsewhere.site.globalfs"]);
}

#[tokio::test]
async fn a_peer_that_is_not_admitted_is_told_why() {
    let ca = Ca::new();
    let server = serve_as(ca.identity(&site("onprem")));
    let why = refusal(ca.identity(&site("stranger")), &server, "onprem").await;
    contains(&why, &["site stranger is not registered"]);
}

#[tokio::test]
async fn a_right_that_is_called_off_ends_at_the_next_request() {
    let pair = Pair::new();
    echo(&pair.peer, &Request::Ping, BUDGET).await.unwrap();
    pair.handler.closed.store(true, Ordering::SeqCst);
    let error = pair.peer.request(&Request::Ping, BUDGET).await.err();
    assert!(matches!(&error, Some(FsError::Refused(why)) if why.contains("not registered")), "{error:?}");
    pair.handler.closed.store(false, Ordering::SeqCst);
    tokio::time::sleep(options::RECONNECT_PAUSE).await;
    echo(&pair.peer, &Request::Ping, BUDGET).await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_certificate_gets_nothing() {
    let ca = Ca::new();
    let server = serve_as(ca.identity(&site("onprem")));
    let (_endpoint, connection) = raw_connection(&ca, None, server.local_addr()).await;
    let error = match connection {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    };
    contains(&error.to_string(), &["certificate"]);
    assert_eq!(server.counters().connections_accepted, 0);
}

#[tokio::test]
async fn a_certificate_without_an_identity_gets_nothing() {
    let ca = Ca::new();
    let server = serve_as(ca.identity(&site("onprem")));
    for names in [&["example.org".to_owned()][..], &[site("cloud").host(), site("other").host()]] {
        let (_endpoint, connection) = raw_connection(&ca, Some(&ca.sign(names)), server.local_addr()).await;
        contains(&connection.unwrap().closed().await.to_string(), &["names no GlobalFS site"]);
    }
    assert_eq!(server.counters().connections_accepted, 0);
}

#[test]
fn an_identity_is_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    let made = ca.sign(&[site("onprem").host()]);
    let write = |name: &str, text: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (certificate, key) = (write("site.crt", &made.certificate), write("site.key", &made.key));
    let root = write("ca.crt", &ca.pem);
    let empty = write("empty.pem", "");
    let foreign_key = write("other.key", &ca.sign(&[site("other").host()]).key);
    let foreign_ca = write("other-ca.crt", &Ca::new().pem);
    let nameless = ca.sign(&["example.org".to_owned()]);
    let (nameless, nameless_key) = (write("web.crt", &nameless.certificate), write("web.key", &nameless.key));

    assert_eq!(Identity::load(&certificate, &key, &root).unwrap().peer(), &site("onprem"));
    let check = |certificate: &_, key: &_, root: &_, parts: &[&str]| {
        contains(&Identity::load(certificate, key, root).unwrap_err().to_string(), parts);
    };
    check(&dir.path().join("none.crt"), &key, &root, &["cannot read", "none.crt"]);
    check(&empty, &key, &root, &["empty.pem", "certificate"]);
    check(&certificate, &empty, &root, &["empty.pem", "private key"]);
    check(&certificate, &key, &empty, &["empty.pem", "certificate"]);
    check(&certificate, &foreign_key, &root, &["other.key", "does not belong", "site.crt"]);
    check(&certificate, &key, &foreign_ca, &["site.crt", "not valid under the CA", "other-ca.crt"]);
    check(&nameless, &nameless_key, &root, &["web.crt", "names no GlobalFS site"]);
}

#[test]
fn an_expired_certificate_is_no_identity() {
    let ca = Ca::new();
    let mut params = rcgen::CertificateParams::new(vec![PeerIdentity::Admin.host()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let made = ca.sign_params(params);
    let error = Identity::from_pem(made.certificate.as_bytes(), made.key.as_bytes(), ca.pem.as_bytes());
    let Err(IdentityError::Untrusted { why, .. }) = error else { panic!("{error:?}") };
    contains(&why, &["expired"]);
}
