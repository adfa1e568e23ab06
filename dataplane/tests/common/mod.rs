//! Two daemons of one cluster, for tests over loopback.

use globalfs_dataplane::Deadline;
use globalfs_proto::{PeerIdentity, SiteName};
use globalfs_transport::{Endpoint, Identity, Options};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::time::Duration;

/// The sites `onprem` and `cloud` of one cluster, on loopback.
pub(crate) fn endpoints() -> [Endpoint; 2] {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    ["onprem", "cloud"].map(|name| {
        let peer = PeerIdentity::Site(SiteName::new(name).unwrap());
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![peer.host()]).unwrap().signed_by(&key, &issuer).unwrap();
        let (certificate, key) = (made.pem(), key.serialize_pem());
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes(), ca.as_bytes()).unwrap();
        Endpoint::bind(Options::server("127.0.0.1:0".parse().unwrap()), identity).unwrap()
    })
}

/// A deadline that a healthy test never meets.
pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}
