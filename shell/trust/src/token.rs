//! The texts people copy between machines: join tokens (`SWMTKN-1-…`) and unlock keys (`SWMKEY-1-…`).
//!
//! Both are byte for byte what Docker makes and accepts (swarmkit `ca/config.go`, `manager/encryption`). A token proves
//! two things: its digest lets a joiner recognise the cluster's root certificate, its secret lets the cluster
//! recognise the joiner. Which role a token gives is not in its text; the cluster compares it with the two it stores.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::digest::{SHA256, digest};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::random_bytes;
use crate::seal::SealKey;
use crate::text::{base36_padded, is_base36};

const TOKEN_PREFIX: &str = "SWMTKN";
const DIGEST_WIDTH: usize = 50;
const SECRET_WIDTH: usize = 25;
const UNLOCK_PREFIX: &str = "SWMKEY-1-";

/// Why a token or key text was refused. The texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a join token.
    #[error("invalid join token")]
    JoinToken,
    /// The text is not an unlock key.
    #[error("invalid key string")]
    UnlockKey,
}

/// A join token, taken apart. Its text form is what `docker swarm join-token` prints.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the root certificate bundle's PEM bytes, in base 36, 50 characters.
    digest: String,
    /// 16 random bytes in base 36, 25 characters.
    secret: String,
    /// Whether the token demands FIPS mode of the joiner (tokens of version 2 only).
    fips: bool,
    version: u8,
}

impl JoinToken {
    /// A new token for the cluster whose root bundle has these PEM bytes, with a fresh secret.
    pub fn generate(root_pem: &[u8]) -> JoinToken {
        JoinToken::from_parts(root_pem, &random_bytes())
    }

    /// The token of this root bundle and this secret.
    pub fn from_parts(root_pem: &[u8], secret: &[u8; 16]) -> JoinToken {
        JoinToken {
            digest: digest_text(root_pem),
            secret: base36_padded(secret, SECRET_WIDTH),
            fips: false,
            version: 1,
        }
    }

    /// Reads a token as strictly as Docker does: exact number of parts, exact lengths.
    pub fn parse(text: &str) -> Result<JoinToken, TokenError> {
        let parts: Vec<&str> = text.split('-').collect();
        let (version, fips, digest, secret) = match parts.as_slice() {
            [TOKEN_PREFIX, "1", digest, secret] => (1, false, *digest, *secret),
            [TOKEN_PREFIX, "2", "0", digest, secret] => (2, false, *digest, *secret),
            [TOKEN_PREFIX, "2", "1", digest, secret] => (2, true, *digest, *secret),
            _ => return Err(TokenError::JoinToken),
        };
        let well_formed =
            digest.len() == DIGEST_WIDTH && secret.len() == SECRET_WIDTH && is_base36(digest) && is_base36(secret);
        if !well_formed {
            return Err(TokenError::JoinToken);
        }
        Ok(JoinToken { digest: digest.to_owned(), secret: secret.to_owned(), fips, version })
    }

    /// Whether the token was made for the cluster with this root bundle (exact PEM bytes).
    pub fn matches_root(&self, root_pem: &[u8]) -> bool {
        same_token(&self.digest, &digest_text(root_pem))
    }

    /// The digest part, for the message that names the fingerprint expected.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether the token demands FIPS mode, which skep does not offer.
    pub fn requires_fips(&self) -> bool {
        self.fips
    }
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.version {
            1 => write!(f, "{TOKEN_PREFIX}-1-{}-{}", self.digest, self.secret),
            _ => write!(f, "{TOKEN_PREFIX}-2-{}-{}-{}", u8::from(self.fips), self.digest, self.secret),
        }
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Compares two secret texts in a time that depends only on their lengths.
pub fn same_token(stored: &str, offered: &str) -> bool {
    let (stored, offered) = (stored.as_bytes(), offered.as_bytes());
    if stored.len() != offered.len() {
        return false;
    }
    let difference = stored.iter().zip(offered).fold(0u8, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

fn digest_text(root_pem: &[u8]) -> String {
    base36_padded(digest(&SHA256, root_pem).as_ref(), DIGEST_WIDTH)
}

/// The key an operator types to unlock an autolocked manager: 32 bytes, shown as `SWMKEY-1-` and 43 base64 characters.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct UnlockKey([u8; 32]);

impl UnlockKey {
    /// A fresh random key.
    pub fn generate() -> UnlockKey {
        UnlockKey(random_bytes())
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> UnlockKey {
        UnlockKey(bytes)
    }

    /// The raw bytes, as they stand in the cluster state (sealed there).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads the text a person typed; surrounding white space does not matter.
    pub fn parse(text: &str) -> Result<UnlockKey, TokenError> {
        let encoded = text.trim().strip_prefix(UNLOCK_PREFIX).ok_or(TokenError::UnlockKey)?;
        let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(encoded).map_err(|_| TokenError::UnlockKey)?);
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| TokenError::UnlockKey)?;
        Ok(UnlockKey(bytes))
    }

    /// The text to show to a person.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{UNLOCK_PREFIX}{}", STANDARD_NO_PAD.encode(self.0)))
    }

    /// The key as one that seals.
    pub(crate) fn seal_key(&self) -> SealKey {
        SealKey::from_bytes(self.0)
    }
}

impl std::fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UnlockKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_dockers_form() {
        let token = JoinToken::from_parts(b"abc", &[0xff; 16]).to_string();
        // SHA-256("abc") = ba7816bf…15ad as a number in base 36.
        let parts: Vec<&str> = token.split('-').collect();
        assert_eq!(&parts[..2], &["SWMTKN", "1"]);
        assert_eq!(parts[2].len(), 50);
        assert_eq!(parts[3], "f5lxx1zz5pnorynqglhzmsp33");
        assert_eq!(token.len(), 85);
    }

    #[test]
    fn small_numbers_are_padded() {
        let token = JoinToken::from_parts(b"abc", &[0; 16]).to_string();
        assert!(token.ends_with(&format!("-{}", "0".repeat(25))));
    }

    #[test]
    fn a_token_survives_its_text() {
        let token = JoinToken::generate(b"root");
        let again = JoinToken::parse(&token.to_string()).unwrap();
        assert_eq!(token, again);
        assert!(again.matches_root(b"root"));
        assert!(!again.matches_root(b"toor"));
        assert_ne!(token.to_string(), JoinToken::generate(b"root").to_string());
    }

    #[test]
    fn version_two_tokens_are_read() {
        let (digest, secret) = ("a".repeat(50), "b".repeat(25));
        for fips in [0, 1] {
            let text = format!("SWMTKN-2-{fips}-{digest}-{secret}");
            let token = JoinToken::parse(&text).unwrap();
            assert_eq!(token.requires_fips(), fips == 1);
            assert_eq!(token.to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let (digest, secret) = ("a".repeat(50), "b".repeat(25));
        for text in [
            String::new(),
            "SWMTKN".into(),
            format!("SWMTKN-1-{digest}"),
            format!("SWMTKN-1-{digest}-{secret}-x"),
            format!("SWMTKN-1-{digest}x-{secret}"),
            format!("SWMTKN-1-{digest}-{}", &secret[1..]),
            format!("SWMTKN-3-{digest}-{secret}"),
            format!("SWMTKN-2-2-{digest}-{secret}"),
            format!("SWMTKN-2-{digest}-{secret}"),
            format!("swmtkn-1-{digest}-{secret}"),
            format!("SWMTKN-1-{}-{secret}", digest.to_uppercase()),
            format!(" SWMTKN-1-{digest}-{secret}"),
        ] {
            assert_eq!(JoinToken::parse(&text), Err(TokenError::JoinToken), "{text:?}");
        }
    }

    #[test]
    fn comparison_needs_every_character() {
        assert!(same_token("abc", "abc"));
        assert!(!same_token("abc", "abd"));
        assert!(!same_token("abc", "abcd"));
        assert!(same_token("", ""));
    }

    #[test]
    fn an_unlock_key_survives_its_text() {
        let key = UnlockKey::generate();
        let text = key.to_text();
        assert_eq!(text.len(), "SWMKEY-1-".len() + 43);
        assert!(UnlockKey::parse(&text).unwrap() == key);
        assert!(UnlockKey::parse(&format!(" {}\n", text.as_str())).unwrap() == key);
        for bad in ["", "SWMKEY-1-", "SWMKEY-2-AAAA", "SWMKEY-1-AAAA", &format!("{}=", text.as_str())] {
            assert_eq!(UnlockKey::parse(bad), Err(TokenError::UnlockKey), "{bad:?}");
        }
    }
}
