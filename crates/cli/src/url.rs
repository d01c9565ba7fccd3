//! Where `publish` and `consume` connect.

use amqp::uri::Uri;
use amqp::wire::SHORT_STRING_SIZE_MAX;
use anyhow::Result;
use clap::Args;

use crate::client::Client;

#[derive(Debug, Args)]
pub(crate) struct Url {
    /// Where the broker is, and who we are
    #[arg(
        long,
        env = "LEVERET_URL",
        hide_env_values = true,
        value_name = "URL",
        value_parser = parse,
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2F"
    )]
    url: Uri,
}

impl Url {
    /// Connects under the name of a command.
    pub(crate) fn connect(&self, name: &str) -> Result<Client> {
        Client::connect(&self.url, name)
    }
}

fn parse(text: &str) -> Result<Uri, String> {
    let uri = Uri::parse(text).map_err(|error| error.to_string())?;
    short_string(&uri.vhost)?;
    let credentials = [&uri.credentials.user, &uri.credentials.password];
    if credentials.iter().any(|text| text.contains('\0')) {
        return Err("user and password cannot contain %00".to_owned());
    }
    Ok(uri)
}

/// A text that AMQP can carry as a short string: names, routing keys, properties.
pub(crate) fn short_string(text: &str) -> Result<String, String> {
    match text.len() {
        0..=SHORT_STRING_SIZE_MAX => Ok(text.to_owned()),
        size => Err(format!("{size} bytes, expected at most {SHORT_STRING_SIZE_MAX}")),
    }
}

/// The name of a queue.
pub(crate) fn queue_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("expected the name of a queue, found nothing".to_owned()),
        name => short_string(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_amqp_cannot_carry_is_refused() {
        let longest = "x".repeat(255);
        assert_eq!(short_string(&longest), Ok(longest.clone()));
        assert_eq!(short_string(&"x".repeat(256)), Err("256 bytes, expected at most 255".to_owned()));
        assert_eq!(parse(&format!("amqp://h/{longest}")).map(|uri| uri.vhost), Ok(longest));
        assert!(parse(&format!("amqp://h/{}", "x".repeat(256))).is_err());
        assert!(parse("amqp://a%00:b@h").is_err());
        assert!(parse("http://h").unwrap_err().contains("expected amqp://"));
        assert!(queue_name("").is_err());
    }
}
