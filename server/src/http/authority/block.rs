//! Walks a header block (RFC 7541), however its bytes arrive, and takes the URL scheme out of its authority.
//!
//! The walk follows representations and lengths alone: it decodes no string and keeps no table.

use std::ops::ControlFlow;

/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY: u32 = 1;
/// Farthest an integer's further byte may be shifted, in bits: numbers stay below 2^28, as does every length in a
/// header list that is accepted.
const INTEGER_SHIFT_MAX: u32 = 21;

/// A URL's beginning, and as long a one that is a legal host's.
///
/// Which bytes are overwritten is decided one by one, because the next may not have arrived. So what is half a scheme
/// (a port of the host `http`) must stay legal if changed that far: `:` becomes `B`, whose code differs in the last
/// bit only, and `//` becomes `34`, whose codes begin like that of `/`. Codes are those of RFC 7541, appendix B.
struct Scheme {
    url: &'static [u8],
    legal: &'static [u8],
    /// Which bits of the last byte belong to the scheme.
    last_mask: u8,
}

const PLAIN: [Scheme; 2] = [
    Scheme {
        url: b"http://",
        legal: b"httpB34",
        last_mask: 0xff,
    },
    Scheme {
        url: b"https://",
        legal: b"httpsB34",
        last_mask: 0xff,
    },
];

const CODED: [Scheme; 2] = [
    // A 41st bit is 0 in both.
    Scheme {
        url: &[0x9d, 0x29, 0xae, 0xe3, 0x0c],
        legal: &[0x9d, 0x29, 0xae, 0xeb, 0x2d],
        last_mask: 0xff,
    },
    Scheme {
        url: &[0x9d, 0x29, 0xad, 0x17, 0x18, 0x60],
        legal: &[0x9d, 0x29, 0xad, 0x17, 0x59, 0x68],
        last_mask: 0xfc,
    },
];

/// Length of the longest [`Scheme`].
const SCHEME_BYTES_MAX: usize = 8;

impl Scheme {
    /// What the last of `seen` is to be, if `seen` is how this scheme begins.
    fn legal(&self, seen: &[u8]) -> Option<u8> {
        let (&last, rest) = seen.split_last()?;
        let at = rest.len();
        let mask = if at + 1 == self.url.len() {
            self.last_mask
        } else {
            0xff
        };
        let matches = self.url.starts_with(rest) && last & mask == *self.url.get(at)?;
        matches.then(|| self.legal[at] | last & !mask)
    }
}

/// What is known of a header block's `:authority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Authority {
    /// Its value has not passed, or not enough of it. Nor has that of an indexed one, which came in an earlier block.
    #[default]
    ToCome,
    /// It was a URL.
    Url,
    /// It was none.
    Legal,
}

/// How far into a header block the walk is.
#[derive(Debug, Default)]
pub(super) struct Block {
    at: At,
    authority: Authority,
    /// The beginning of the authority's value, as it was sent.
    seen: [u8; SCHEME_BYTES_MAX],
    seen_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// The first byte of a field.
    #[default]
    Field,
    /// The first byte of a string, of its length.
    Length(Text),
    /// A further byte of an integer that is `value` so far.
    Integer { value: u32, shift: u32, of: Integer },
    /// A byte of a string that has `left` more, one at least.
    String { left: usize, text: Text },
}

/// What an integer tells.
#[derive(Clone, Copy, Debug)]
enum Integer {
    /// An indexed field, or the table's new size.
    Whole,
    /// The index of a field's name.
    Name,
    /// A string's length.
    Length(Text),
}

/// What a string is.
#[derive(Clone, Copy, Debug)]
enum Text {
    Name,
    Value,
    Authority { coded: bool },
}

impl Block {
    /// What is known of the authority by now.
    pub(super) fn authority(&self) -> Authority {
        self.authority
    }

    /// Lets the next bytes of the block pass, overwriting the scheme of a URL. Breaks off where a number is absurd.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) -> ControlFlow<()> {
        while let Some(&first) = bytes.first() {
            let mut step = 1;
            self.at = match self.at {
                At::Field => field(first),
                At::Length(text) => {
                    let text = match text {
                        Text::Authority { .. } => Text::Authority {
                            coded: first & 0x80 != 0,
                        },
                        other => other,
                    };
                    integer(first, 0x7f, Integer::Length(text))
                }
                At::Integer { value, shift, of } => {
                    if shift > INTEGER_SHIFT_MAX {
                        return ControlFlow::Break(());
                    }
                    let value = value + (u32::from(first & 0x7f) << shift);
                    if first & 0x80 == 0 {
                        of.is(value)
                    } else {
                        let shift = shift + 7;
                        At::Integer { value, shift, of }
                    }
                }
                At::String { left, text } => {
                    step = left.min(bytes.len());
                    if let Text::Authority { coded } = text {
                        self.pass_authority(coded, &mut bytes[..step], left - step);
                    }
                    text.has(left - step)
                }
            };
            bytes = &mut bytes[step..];
        }
        ControlFlow::Continue(())
    }

    /// Lets the next bytes of the authority's value pass, after which `left` remain.
    fn pass_authority(&mut self, coded: bool, bytes: &mut [u8], left: usize) {
        let schemes = if coded { &CODED } else { &PLAIN };
        for byte in bytes {
            if self.authority != Authority::ToCome {
                return;
            }
            self.seen[self.seen_bytes] = *byte;
            self.seen_bytes += 1;
            let seen = &self.seen[..self.seen_bytes];
            let found = schemes
                .iter()
                .find_map(|scheme| Some((scheme, scheme.legal(seen)?)));
            match found {
                Some((scheme, legal)) => {
                    *byte = legal;
                    if seen.len() == scheme.url.len() {
                        self.authority = Authority::Url;
                    }
                }
                None => self.authority = Authority::Legal,
            }
        }
        if left == 0 && self.authority == Authority::ToCome {
            self.authority = Authority::Legal;
        }
    }
}

/// What follows a field's first byte, whose highest bits tell the representation (RFC 7541, section 6).
fn field(first: u8) -> At {
    match first {
        0x80.. => integer(first, 0x7f, Integer::Whole),
        0x40.. => integer(first, 0x3f, Integer::Name),
        0x20.. => integer(first, 0x1f, Integer::Whole),
        _ => integer(first, 0x0f, Integer::Name),
    }
}

/// What follows the first byte of an integer that has the bits of `mask` (RFC 7541, section 5.1).
fn integer(first: u8, mask: u8, of: Integer) -> At {
    let value = u32::from(first & mask);
    if first & mask == mask {
        At::Integer { value, shift: 0, of }
    } else {
        of.is(value)
    }
}

impl Integer {
    /// What follows once the integer is known.
    fn is(self, value: u32) -> At {
        match self {
            Self::Whole => At::Field,
            Self::Name if value == 0 => At::Length(Text::Name),
            Self::Name if value == AUTHORITY => At::Length(Text::Authority { coded: false }),
            Self::Name => At::Length(Text::Value),
            Self::Length(text) => text.has(value as usize),
        }
    }
}

impl Text {
    /// What follows where `left` bytes of the string do.
    fn has(self, left: usize) -> At {
        match self {
            text if left > 0 => At::String { left, text },
            Self::Name => At::Length(Text::Value),
            Self::Value | Self::Authority { .. } => At::Field,
        }
    }
}
