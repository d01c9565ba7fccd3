//! Sender-selected distribution: the headers CC and BCC name further routing keys. As with RabbitMQ, each is an array, of
//! which only the strings count, and BCC is gone before anybody sees the message.

use amqp::error::Error;
use amqp::properties::Properties;
use amqp::table::{Table, TableBuilder, Value};

/// What the headers of a message say about copies.
#[derive(Debug, Default)]
pub(super) struct Copies<'m> {
    keys: Vec<&'m str>,
    /// The headers, if there is a BCC among them.
    with_bcc: Option<Table<'m>>,
}

impl<'m> Copies<'m> {
    /// # Errors
    /// 406 if one of them is no array, or a key is longer than a routing key can be.
    pub(super) fn read(properties: Properties<'m>) -> Result<Copies<'m>, Error> {
        let mut copies = Copies::default();
        if !properties.needs_a_look() {
            return Ok(copies);
        }
        let Some(headers) = properties.headers() else { return Ok(copies) };
        for name in ["CC", "BCC"] {
            let Some(value) = headers.get(name) else { continue };
            let Some(keys) = value.as_array() else {
                let kind = value.type_name();
                let text = format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}");
                return Err(Error::precondition_failed(text));
            };
            copies.keys.extend(keys.iter().filter_map(Value::as_str));
            if name == "BCC" {
                copies.with_bcc = Some(headers);
            }
        }
        Ok(copies)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All routing keys.
    pub(super) fn with(&self, routing_key: &'m str) -> Vec<&'m str> {
        std::iter::once(routing_key).chain(self.keys.iter().copied()).collect()
    }

    /// The headers to deliver, if they differ from those that came.
    pub(super) fn headers_without_bcc(&self) -> Option<TableBuilder> {
        let headers = self.with_bcc?;
        let mut kept = TableBuilder::new();
        headers.iter().filter(|(key, _)| *key != "BCC").for_each(|(key, value)| kept.insert(key, value));
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amqp::properties::PropertiesBuilder;
    use amqp::table::ArrayBuilder;

    fn with(headers: &TableBuilder) -> Vec<u8> {
        let headers = Some(headers.as_table());
        PropertiesBuilder { headers, ..PropertiesBuilder::default() }.to_bytes()
    }

    #[test]
    fn cc_stays_and_bcc_goes() {
        let keys = |keys: &[&str]| keys.iter().fold(ArrayBuilder::new(), |array, key| array.with(*key));
        let (open, blind) = (keys(&["a", "b"]), keys(&["c"]).with(7i32));
        let headers =
            TableBuilder::new().with("x", 1i32).with("BCC", blind.as_array()).with("CC", open.as_array());
        let bytes = with(&headers);
        let copies = Copies::read(Properties::new(&bytes).unwrap()).unwrap();
        assert_eq!(copies.with("k"), ["k", "a", "b", "c"]);
        let kept = copies.headers_without_bcc().unwrap();
        assert_eq!(kept.as_table().iter().map(|(key, _)| key).collect::<Vec<_>>(), ["x", "CC"]);
    }

    #[test]
    fn what_is_no_array_is_refused_and_what_is_not_there_costs_nothing() {
        for name in ["CC", "BCC"] {
            let bytes = with(&TableBuilder::new().with(name, "k"));
            let error = Copies::read(Properties::new(&bytes).unwrap()).unwrap_err();
            let text = format!("invalid message: {{unacceptable_type_in_header,\"{name}\",longstr}}");
            assert_eq!((error.code.value(), &*error.text), (406, &*text));
        }
        for headers in [TableBuilder::new(), TableBuilder::new().with("a", "CC")] {
            let bytes = with(&headers);
            let copies = Copies::read(Properties::new(&bytes).unwrap()).unwrap();
            assert!(copies.is_empty() && copies.headers_without_bcc().is_none());
        }
    }
}
