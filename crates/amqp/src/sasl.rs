//! What a client answers to prove who it is.

use crate::error::{Error, Result};
use crate::table::{Table, Value};

/// A name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password, or a token in its place.
    pub password: String,
}

/// Never shows the password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Reads the response of PLAIN (RFC 4616): `authzid NUL user NUL password`, where authzid may be empty and is
/// ignored.
///
/// # Errors
/// `502 SYNTAX_ERROR` if there are not exactly three parts, or they are not UTF-8.
pub fn parse_plain(response: &[u8]) -> Result<Credentials> {
    let text = str::from_utf8(response).map_err(|_| malformed("PLAIN"))?;
    let mut parts = text.split('\0');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(user), Some(password), None) => {
            Ok(Credentials { user: user.to_owned(), password: password.to_owned() })
        }
        _ => Err(malformed("PLAIN")),
    }
}

/// Reads the response of AMQPLAIN: a table, without its length, with `LOGIN` and `PASSWORD`.
///
/// # Errors
/// `502 SYNTAX_ERROR` if it is no table, or one of the two is missing or no UTF-8.
pub fn parse_amqplain(response: &[u8]) -> Result<Credentials> {
    let table = Table::new(response)?;
    let text = |key| table.get(key).and_then(Value::as_str).map(str::to_owned);
    match (text("LOGIN"), text("PASSWORD")) {
        (Some(user), Some(password)) => Ok(Credentials { user, password }),
        _ => Err(malformed("AMQPLAIN")),
    }
}

/// The response of PLAIN. Neither may contain NUL.
#[must_use]
pub fn plain(user: &str, password: &str) -> Vec<u8> {
    format!("\0{user}\0{password}").into_bytes()
}

fn malformed(mechanism: &str) -> Error {
    Error::syntax_error(format!("malformed {mechanism} response"))
}
