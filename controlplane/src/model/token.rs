//! Join tokens: what lets a machine without a certificate ask for one, once.
//!
//! *Invariants:* the store holds only a hash of the secret; a token admits one name with one key; the same
//! key may ask again until the token expires, because the first answer may have been lost.

use super::timestamp::Timestamp;
use globalfs_proto::{NodeName, PeerIdentity, SiteName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What every token begins with: the name and version of its form.
const FORM: &str = "gfs1";
/// Bytes of a token's id.
pub const ID_BYTES: usize = 8;
/// Bytes of a token's secret.
pub const SECRET_BYTES: usize = 16;
/// Bytes of a fingerprint.
const FINGERPRINT_BYTES: usize = 32;

/// The text that an administrator hands to a machine: `gfs1.ID.SECRET.FINGERPRINT`, all hexadecimal.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the token's record.
    pub id: String,
    /// Proves that the administrator gave it.
    secret: String,
    /// The certificate authority that the coordinator must show.
    pub ca_fingerprint: String,
}

/// Who joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Joiner {
    /// A site.
    Site {
        /// Its name.
        name: SiteName,
    },
    /// A node.
    Node {
        /// Its name.
        name: NodeName,
        /// Its site.
        site: SiteName,
    },
}

/// A token as the store holds it, at `/globalfs/metadata/tokens/ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The token's id.
    pub id: String,
    /// Whom it admits.
    #[serde(flatten)]
    pub joiner: Joiner,
    /// Hash of the secret.
    pub secret_hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it admits nobody.
    pub expires_at: Timestamp,
    /// The one use that it had.
    pub used: Option<TokenUse>,
}

/// The use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// When.
    pub at: Timestamp,
    /// Hash of the public key that was certified.
    pub key_fingerprint: String,
}

/// Why a token does not admit a joiner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is no token.
    #[error("this is not a join token; it has the form gfs1.ID.SECRET.FINGERPRINT, copied whole")]
    Malformed,
    /// No such token, or another secret.
    #[error("the join token is unknown; make one with 'globalfs token create' on the coordinator")]
    Unknown,
    /// It admitted another key before.
    #[error("the join token was used at {0}; make a new one with 'globalfs token create'")]
    Used(Timestamp),
    /// It is too old.
    #[error("the join token expired at {0}; make a new one with 'globalfs token create'")]
    Expired(Timestamp),
    /// It was made for somebody else.
    #[error("the join token is for {0}; make one for the name that is to join")]
    OtherName(Joiner),
}

/// What admitting a joiner changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The token is used from now on.
    First,
    /// The same key asked again: nothing changes.
    Repeated,
}

impl JoinToken {
    /// A token from random bytes and the fingerprint of the cluster's certificate authority.
    pub fn new(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES], ca_fingerprint: &str) -> Self {
        Self { id: hex::encode(id), secret: hex::encode(secret), ca_fingerprint: ca_fingerprint.to_owned() }
    }

    /// Parses what a person pasted; white space around it is ignored.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let [FORM, id, secret, ca_fingerprint] = text.trim().split('.').collect::<Vec<_>>()[..] else {
            return Err(TokenError::Malformed);
        };
        let fine = [(id, ID_BYTES), (secret, SECRET_BYTES), (ca_fingerprint, FINGERPRINT_BYTES)]
            .iter()
            .all(|(text, length)| hex::decode(text).is_ok_and(|bytes| bytes.len() == *length));
        let token = || Self { id: id.into(), secret: secret.into(), ca_fingerprint: ca_fingerprint.into() };
        fine.then(token).ok_or(TokenError::Malformed)
    }

    /// What the store keeps of the secret.
    pub fn secret_hash(&self) -> String {
        blake3::hash(self.secret.as_bytes()).to_hex().to_string()
    }

    /// The whole token as text: a secret, to be shown once.
    pub fn reveal(&self) -> String {
        format!("{FORM}.{}.{}.{}", self.id, self.secret, self.ca_fingerprint)
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret, so that it ends in no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", self.id)
    }
}

impl TokenRecord {
    /// Where the record of token `id` is.
    pub fn key(id: &str) -> String {
        format!("{}{id}", super::record::TOKENS_PREFIX)
    }

    /// Whether `token` admits `joiner` with the key of this fingerprint.
    pub fn admit(
        &self,
        token: &JoinToken,
        joiner: &Joiner,
        key_fingerprint: &str,
        now: Timestamp,
    ) -> Result<Admission, TokenError> {
        // Hashes of a random secret are compared: the time it takes tells nothing about the secret.
        if token.id != self.id || token.secret_hash() != self.secret_hash {
            return Err(TokenError::Unknown);
        }
        if now >= self.expires_at {
            return Err(TokenError::Expired(self.expires_at));
        }
        if *joiner != self.joiner {
            return Err(TokenError::OtherName(self.joiner.clone()));
        }
        match &self.used {
            None => Ok(Admission::First),
            Some(used) if used.key_fingerprint == key_fingerprint => Ok(Admission::Repeated),
            Some(used) => Err(TokenError::Used(used.at)),
        }
    }
}

impl Joiner {
    /// Who the joiner will be.
    pub fn identity(&self) -> PeerIdentity {
        match self {
            Self::Site { name } => PeerIdentity::Site(name.clone()),
            Self::Node { name, site } => PeerIdentity::Node(name.clone(), site.clone()),
        }
    }
}

impl fmt::Display for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identity().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn site(name: &str) -> Joiner {
        Joiner::Site { name: SiteName::new(name).unwrap() }
    }

    fn token() -> JoinToken {
        JoinToken::new([1; ID_BYTES], [2; SECRET_BYTES], &"ab".repeat(FINGERPRINT_BYTES))
    }

    fn record() -> TokenRecord {
        let now = Timestamp::from_unix_ms(0);
        TokenRecord {
            id: token().id,
            joiner: site("cloud"),
            secret_hash: token().secret_hash(),
            created_at: now,
            expires_at: now.after(Duration::from_secs(10)),
            used: None,
        }
    }

    #[test]
    fn the_text_survives_and_damage_is_seen() {
        let text = token().reveal();
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Ok(token()));
        assert!(!format!("{:?}", token()).contains("0202"));
        for bad in ["", "gfs1", &text[1..], &text[..text.len() - 1], &text.replace("gfs1", "gfs2")] {
            assert_eq!(JoinToken::parse(bad), Err(TokenError::Malformed), "{bad}");
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let now = Timestamp::from_unix_ms(9_999);
        let check = |record: &TokenRecord, token: &JoinToken, joiner: &Joiner, now, expected| {
            assert_eq!(record.admit(token, joiner, "key", now), expected);
        };
        let used = |key: &str| TokenRecord {
            used: Some(TokenUse { at: now, key_fingerprint: key.into() }),
            ..record()
        };
        let late = Timestamp::from_unix_ms(10_000);
        let guessed = JoinToken::new([1; ID_BYTES], [3; SECRET_BYTES], "");
        check(&record(), &token(), &site("cloud"), now, Ok(Admission::First));
        check(&used("key"), &token(), &site("cloud"), now, Ok(Admission::Repeated));
        check(&used("other"), &token(), &site("cloud"), now, Err(TokenError::Used(now)));
        check(&used("key"), &token(), &site("cloud"), late, Err(TokenError::Expired(late)));
        check(&record(), &token(), &site("mars"), now, Err(TokenError::OtherName(site("cloud"))));
        check(&record(), &guessed, &site("cloud"), now, Err(TokenError::Unknown));
    }

    #[test]
    fn the_record_shows_no_secret() {
        let text = serde_json::to_string(&record()).unwrap();
        assert!(text.contains(r#""kind":"site","name":"cloud""#), "{text}");
        assert!(!text.contains(&"02".repeat(SECRET_BYTES)), "{text}");
        assert_eq!(serde_json::from_str::<TokenRecord>(&text).unwrap(), record());
    }
}
