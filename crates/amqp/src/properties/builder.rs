//! Writing properties.

use super::{
    APP_ID, CLUSTER_ID, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, DELIVERY_MODE, EXPIRATION, HEADERS,
    KIND, MESSAGE_ID, PRIORITY, REPLY_TO, TIMESTAMP, USER_ID,
};
use crate::table::Table;
use crate::wire::{put_long_string, put_short_string};

/// The properties of a message to be written. The fields mean what the getters of
/// [`Properties`](super::Properties) say.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
#[allow(missing_docs, reason = "the fields are documented at the getters of Properties")]
pub struct PropertiesBuilder<'a> {
    pub content_type: Option<&'a str>,
    pub content_encoding: Option<&'a str>,
    pub headers: Option<Table<'a>>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    pub expiration: Option<&'a str>,
    pub message_id: Option<&'a str>,
    pub timestamp: Option<u64>,
    pub kind: Option<&'a str>,
    pub user_id: Option<&'a str>,
    pub app_id: Option<&'a str>,
    pub cluster_id: Option<&'a str>,
}

impl PropertiesBuilder<'_> {
    /// The flags and fields, as a new vector; see [`PropertiesBuilder::encode`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Appends the flags and fields.
    ///
    /// # Panics
    /// If a string is longer than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.flags().to_be_bytes());
        put_string(out, self.content_type);
        put_string(out, self.content_encoding);
        if let Some(headers) = self.headers {
            put_long_string(out, headers.as_bytes());
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        put_string(out, self.correlation_id);
        put_string(out, self.reply_to);
        put_string(out, self.expiration);
        put_string(out, self.message_id);
        if let Some(seconds) = self.timestamp {
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        put_string(out, self.kind);
        put_string(out, self.user_id);
        put_string(out, self.app_id);
        put_string(out, self.cluster_id);
    }

    fn flags(&self) -> u16 {
        let flag = |flag: u16, is_set: bool| if is_set { flag } else { 0 };
        flag(CONTENT_TYPE, self.content_type.is_some())
            | flag(CONTENT_ENCODING, self.content_encoding.is_some())
            | flag(HEADERS, self.headers.is_some())
            | flag(DELIVERY_MODE, self.delivery_mode.is_some())
            | flag(PRIORITY, self.priority.is_some())
            | flag(CORRELATION_ID, self.correlation_id.is_some())
            | flag(REPLY_TO, self.reply_to.is_some())
            | flag(EXPIRATION, self.expiration.is_some())
            | flag(MESSAGE_ID, self.message_id.is_some())
            | flag(TIMESTAMP, self.timestamp.is_some())
            | flag(KIND, self.kind.is_some())
            | flag(USER_ID, self.user_id.is_some())
            | flag(APP_ID, self.app_id.is_some())
            | flag(CLUSTER_ID, self.cluster_id.is_some())
    }
}

fn put_string(out: &mut Vec<u8>, text: Option<&str>) {
    if let Some(text) = text {
        put_short_string(out, text);
    }
}
