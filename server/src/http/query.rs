//! A URL's query, as Go's `url.Values` sees it: every key may come several times.

/// Decoded pairs in their order. Pairs with broken escapes are left out, as in Go.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads what follows the question mark.
    pub fn parse(query: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            Some((unescape(key)?, unescape(value)?))
        };
        let parts = query
            .split('&')
            .filter(|part| !part.is_empty() && !part.contains(';'));
        Self {
            pairs: parts.filter_map(pair).collect(),
        }
    }

    /// Whether the key is there, with any value.
    pub fn has(&self, key: &str) -> bool {
        self.all(key).next().is_some()
    }

    /// The first value of the key; empty if there is none.
    pub fn first<'q>(&'q self, key: &str) -> &'q str {
        self.all(key).next().unwrap_or_default()
    }

    /// All values of the key.
    pub fn all<'q>(&'q self, key: &str) -> impl Iterator<Item = &'q str> {
        self.pairs
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }
}

/// Undoes `%41` and `+`; none for escapes that are no bytes, or bytes that are no text.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_may_repeat_and_values_may_be_missing() {
        let query = Query::parse("verbose&exclude=a&exclude=%62%20c&x=1+2&bad=%zz&&");
        assert!(query.has("verbose"));
        assert_eq!(query.first("verbose"), "");
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(query.first("x"), "1 2");
        assert!(!query.has("bad"));
    }
}
