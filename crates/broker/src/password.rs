//! Password hashes: Argon2id for our own, RabbitMQ's salted SHA-2 for those that came with its definitions.

use std::fmt;

use argon2::password_hash::{PasswordHasher, phc};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256, Sha512};

use crate::error::{Error, Kind, precondition};

/// Memory that one hash costs, in KiB: what OWASP asks for with two passes.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How hashes with these parameters begin.
const CURRENT_PREFIX: &str = "$argon2id$v=19$m=19456,t=2,p=1$";
/// Well formed, with these parameters, and the hash of nothing.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Names of algorithms in definitions.
const RABBITMQ_SHA256: &str = "rabbit_password_hashing_sha256";
const RABBITMQ_SHA512: &str = "rabbit_password_hashing_sha512";
const ARGON2ID: &str = "argon2id";

/// Passes that a hash from elsewhere may take.
const PASSES_MAX: u32 = 16;

const RABBITMQ_SALT_LEN: usize = 4;
const SHA256_PREFIX: &str = "$rabbitmq-sha256$";
const SHA512_PREFIX: &str = "$rabbitmq-sha512$";

/// A password's hash, as stored.
///
/// ```text
/// $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH     a PHC string
/// $rabbitmq-sha256$BASE64                      RabbitMQ's base64(salt ‖ SHA-256(salt ‖ password)), salt of 4 bytes
/// $rabbitmq-sha512$BASE64                      the same with SHA-512
/// (nothing)                                    no password fits
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Hashes `password` with Argon2id, which takes tens of milliseconds and 19 MiB. `salt` comes from the operating
    /// system's random numbers.
    ///
    /// # Errors
    /// An empty password is refused: no one could log in with it.
    pub fn hash(password: &str, salt: [u8; 16]) -> Result<PasswordHash, Error> {
        if password.is_empty() {
            return Err(precondition("a password must not be empty"));
        }
        let params =
            Params::new(MEMORY_KIB, PASSES, LANES, None).expect("the constants are in Argon2's range");
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash: phc::PasswordHash = hasher
            .hash_password_with_salt(password.as_bytes(), &salt)
            .map_err(|error| Error::new(Kind::Invalid, format!("the password cannot be hashed: {error}")))?;
        Ok(PasswordHash(hash.to_string()))
    }

    /// A hash that no password fits.
    pub fn none() -> PasswordHash {
        PasswordHash(String::new())
    }

    /// A hash to verify against when there is no such user. No password fits it, and it costs as much as any.
    pub fn dummy() -> PasswordHash {
        PasswordHash(DUMMY.to_owned())
    }

    /// A hash from definitions, with the name of its algorithm: one of RabbitMQ's, or our own.
    ///
    /// # Errors
    /// Unknown algorithm; not base64; not a salt and a digest of that algorithm.
    pub fn from_definitions(hash: &str, algorithm: &str) -> Result<PasswordHash, Error> {
        if hash.is_empty() {
            return Ok(PasswordHash::none());
        }
        let (prefix, digest_len) = match algorithm {
            RABBITMQ_SHA256 => (SHA256_PREFIX, 32),
            RABBITMQ_SHA512 => (SHA512_PREFIX, 64),
            ARGON2ID => return PasswordHash::from_argon2id(hash),
            _ => {
                return Err(precondition(format!("unsupported password hashing algorithm '{algorithm}'")));
            }
        };
        let bytes = STANDARD
            .decode(hash)
            .map_err(|error| precondition(format!("a password hash is not base64: {error}")))?;
        let (found, expected) = (bytes.len(), RABBITMQ_SALT_LEN + digest_len);
        if found != expected {
            return Err(precondition(format!("a password hash has {found} bytes, expected {expected}")));
        }
        Ok(PasswordHash(format!("{prefix}{hash}")))
    }

    fn from_argon2id(hash: &str) -> Result<PasswordHash, Error> {
        let refuse = |why: &str| Err(precondition(format!("a password hash of {ARGON2ID} is {why}")));
        let Ok(parsed) = phc::PasswordHash::new(hash) else {
            return refuse("no PHC string");
        };
        match Params::try_from(&parsed) {
            Ok(params) if params.block_count() <= SCRATCH_BLOCKS && params.t_cost() <= PASSES_MAX => {}
            Ok(_) => return refuse("too dear to check: at most 33 MiB and 16 passes are allowed"),
            Err(_) => return refuse("not understood"),
        }
        if parsed.algorithm.as_str() != "argon2id" || parsed.salt.is_none() || parsed.hash.is_none() {
            return refuse("not complete");
        }
        Ok(PasswordHash(hash.to_owned()))
    }

    /// The hash as definitions have it, with the name of its algorithm.
    pub(crate) fn in_definitions(&self) -> (&str, &'static str) {
        let rabbitmq = [(SHA256_PREFIX, RABBITMQ_SHA256), (SHA512_PREFIX, RABBITMQ_SHA512)];
        let rabbitmq =
            rabbitmq.into_iter().find_map(|(prefix, name)| Some((self.0.strip_prefix(prefix)?, name)));
        let other = if self.0.is_empty() { RABBITMQ_SHA256 } else { ARGON2ID };
        rabbitmq.unwrap_or((&self.0, other))
    }

    /// Whether `password` is the one that was hashed. Empty passwords and empty hashes never are.
    ///
    /// Each answer costs one Argon2id, whatever the hash is, so that its timing tells nothing about the user.
    pub fn verify(&self, password: &str) -> bool {
        let salted =
            [(SHA256_PREFIX, verify_salted::<Sha256> as Verify), (SHA512_PREFIX, verify_salted::<Sha512>)]
                .into_iter()
                .find_map(|(prefix, verify)| Some((self.0.strip_prefix(prefix)?, verify)));
        let phc = if salted.is_some() || self.0.is_empty() { DUMMY } else { &self.0 };
        let fits = verify_phc(phc, password);
        let fits = salted.map_or(fits, |(hash, verify)| verify(hash, password));
        fits && !password.is_empty()
    }

    /// Whether the hash is weaker than those made today: hash the password again at the next login that verifies.
    pub fn needs_rehash(&self) -> bool {
        !self.0.is_empty() && !self.0.starts_with(CURRENT_PREFIX)
    }

    /// As stored. Never show it to a client.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hashes do not belong into logs.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "PasswordHash(none)" } else { "PasswordHash(…)" })
    }
}

type Verify = fn(&str, &str) -> bool;

/// Room for blocks of Argon2, a KiB each: more than any hash of ours needs, see [`scratch`].
const SCRATCH_BLOCKS: usize = 33 * 1024;

/// Memory for a hash, of which only as much as is asked for is touched.
///
/// It is reserved in one piece of more than 32 MiB because an allocator is then sure to give it back to the system: with
/// smaller pieces glibc learns from the first one to keep the later ones, and a broker that had checked a dozen wrong
/// passwords kept hundreds of megabytes.
fn scratch(params: &Params) -> Vec<Block> {
    let mut blocks = Vec::with_capacity(SCRATCH_BLOCKS.max(params.block_count()));
    blocks.resize(params.block_count(), Block::default());
    blocks
}

fn verify_phc(hash: &str, password: &str) -> bool {
    let Ok(hash) = phc::PasswordHash::new(hash) else {
        return false;
    };
    let (Ok(params), Some(salt), Some(expected)) = (Params::try_from(&hash), hash.salt, hash.hash) else {
        return false;
    };
    let mut found = [0; phc::Output::MAX_LENGTH];
    let found = &mut found[..expected.len()];
    let memory = scratch(&params);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let computed = argon2.hash_password_into_with_memory(password.as_bytes(), &salt, found, memory);
    computed.is_ok() && phc::Output::new(found).is_ok_and(|found| found == expected)
}

fn verify_salted<D: Digest>(hash: &str, password: &str) -> bool {
    let Ok(bytes) = STANDARD.decode(hash) else {
        return false;
    };
    let Some((salt, digest)) = bytes.split_at_checked(RABBITMQ_SALT_LEN) else {
        return false;
    };
    let expected = D::new().chain_update(salt).chain_update(password).finalize();
    let difference = expected.iter().zip(digest).fold(0, |sum, (one, other)| sum | (one ^ other));
    digest.len() == expected.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const SHA256: &str = "rabbit_password_hashing_sha256";
    const TEST12: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";

    #[test]
    fn a_password_verifies_and_others_do_not() {
        let hash = PasswordHash::hash("secret", [7; 16]).unwrap();
        expect!["$argon2id$v=19$m=19456,t=2,p=1$BwcHBwcHBwcHBwcHBwcHBw$XeABAVjmL5TdwhTsnY8gRvA7w/wIXev46qnMbsVM8rg"].assert_eq(hash.as_str());
        assert!(hash.verify("secret"));
        assert!(!hash.verify("Secret") && !hash.verify(""));
        assert!(!hash.needs_rehash());
    }

    #[test]
    fn the_vector_of_rabbitmq_verifies_and_wants_to_be_better() {
        let hash = PasswordHash::from_definitions(TEST12, SHA256).unwrap();
        assert!(hash.verify("test12"));
        assert!(!hash.verify("test13") && !hash.verify(""));
        assert!(hash.needs_rehash());
    }

    #[test]
    fn sha_512_works_the_same() {
        let salt = [1, 2, 3, 4];
        let digest = Sha512::new().chain_update(salt).chain_update("pw").finalize();
        let text = STANDARD.encode([&salt[..], &digest].concat());
        let hash = PasswordHash::from_definitions(&text, "rabbit_password_hashing_sha512").unwrap();
        assert!(hash.verify("pw") && !hash.verify("pw2"));
    }

    #[test]
    fn hashes_that_make_no_sense_are_refused() {
        let attempts = [(TEST12, "rabbit_password_hashing_md5"), ("%%%", SHA256), ("kI3GCqW5", SHA256)];
        let story = attempts
            .map(|(hash, algorithm)| PasswordHash::from_definitions(hash, algorithm).unwrap_err().text);
        expect![[r#"
            unsupported password hashing algorithm 'rabbit_password_hashing_md5'
            a password hash is not base64: Invalid symbol 37, offset 0.
            a password hash has 6 bytes, expected 36"#]]
        .assert_eq(&story.join("\n"));
        assert!(PasswordHash::hash("", [0; 16]).is_err());
    }

    #[test]
    fn nothing_fits_a_user_without_password_or_no_user() {
        let salted_empty = STANDARD.encode([&[0; 4][..], &Sha256::digest([0; 4])].concat());
        let hashes = [
            PasswordHash::none(),
            PasswordHash::dummy(),
            PasswordHash::from_definitions("", SHA256).unwrap(),
            PasswordHash::from_definitions(&salted_empty, SHA256).unwrap(),
        ];
        for hash in hashes {
            assert!(!hash.verify("") && !hash.verify("guest"));
        }
        assert!(!PasswordHash::none().needs_rehash());
        assert!(phc::PasswordHash::new(DUMMY).is_ok() && DUMMY.starts_with(CURRENT_PREFIX));
    }

    #[test]
    fn definitions_give_back_what_they_were_given() {
        let ours = PasswordHash::hash("secret", [7; 16]).unwrap();
        let theirs = PasswordHash::from_definitions(TEST12, SHA256).unwrap();
        for hash in [ours, theirs, PasswordHash::none()] {
            let (text, algorithm) = hash.in_definitions();
            assert_eq!(PasswordHash::from_definitions(text, algorithm).unwrap(), hash);
        }
        let dear = DUMMY.replace("m=19456", "m=999999");
        for (hash, why) in
            [("x", "no PHC string"), (&*dear, "too dear"), ("$argon2id$v=19$m=19456,t=2,p=1", "not complete")]
        {
            let error = PasswordHash::from_definitions(hash, "argon2id").unwrap_err();
            assert!(error.text.contains(why), "{hash}: {}", error.text);
        }
    }

    #[test]
    fn a_hash_does_not_show_itself() {
        assert_eq!(
            format!("{:?}", PasswordHash::from_definitions(TEST12, SHA256).unwrap()),
            "PasswordHash(…)"
        );
    }
}
