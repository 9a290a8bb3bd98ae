//! Fields of our own records: big-endian integers, and bytes behind a u32 length.

/// Takes fields off the front of a record. `None`: the record is too short, or not what a field can be.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// One byte, 0 or 1.
    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        let (field, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(field)
    }

    pub(crate) fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    /// A flag, and the field if it is set.
    pub(crate) fn optional<T>(&mut self, field: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? {
            field(self).map(Some)
        } else {
            Some(None)
        }
    }

    /// A u32 count, and so many fields.
    pub(crate) fn list<T>(&mut self, mut field: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        (0..count).map(|_| field(self)).collect()
    }

    /// Nothing may be left over.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends what [`Fields`] takes off.
pub(crate) trait PutFields {
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_i64(&mut self, value: i64);
    fn put_bytes(&mut self, value: &[u8]);
    fn put_optional<T>(&mut self, value: Option<T>, field: impl FnOnce(&mut Self, T));
    fn put_list<T>(&mut self, values: &[T], field: impl FnMut(&mut Self, &T));
}

impl PutFields for Vec<u8> {
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_bytes(&mut self, value: &[u8]) {
        self.put_u32(count(value.len()));
        self.extend_from_slice(value);
    }

    fn put_optional<T>(&mut self, value: Option<T>, field: impl FnOnce(&mut Self, T)) {
        self.push(u8::from(value.is_some()));
        if let Some(value) = value {
            field(self, value);
        }
    }

    fn put_list<T>(&mut self, values: &[T], mut field: impl FnMut(&mut Self, &T)) {
        self.put_u32(count(values.len()));
        for value in values {
            field(self, value);
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("a field is far below 4 GiB")
}
