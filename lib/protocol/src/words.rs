//! Words as bytes: each with its length and a colon before it; a list begins with how many there are. So host and guest write what
//! has no type of JSON's: paths of any bytes.

/// Writes words.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One word.
    pub fn word(&mut self, word: &[u8]) {
        self.0.extend_from_slice(format!("{}:", word.len()).as_bytes());
        self.0.extend_from_slice(word);
    }
    /// A number, as a word.
    pub fn number(&mut self, number: usize) {
        self.word(number.to_string().as_bytes());
    }
    /// How many items there are, and then each as `write` writes it.
    pub fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.number(items.len());
        items.iter().for_each(|item| write(self, item));
    }
    /// A list of words.
    pub fn words(&mut self, words: &[Vec<u8>]) {
        self.list(words, |out, word| out.word(word));
    }
}

/// Reads what a [`Writer`] wrote, and gives `None` where it is anything else.
#[derive(Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// One word.
    pub fn word(&mut self) -> Option<&'a [u8]> {
        let colon = self.0.iter().take(20).position(|byte| *byte == b':')?;
        let length: usize = std::str::from_utf8(&self.0[..colon]).ok()?.parse().ok()?;
        let (word, rest) = self.0[colon + 1..].split_at_checked(length)?;
        self.0 = rest;
        Some(word)
    }
    /// One word, as bytes of its own.
    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        self.word().map(<[u8]>::to_vec)
    }
    /// One word that is text.
    pub fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }
    /// A number.
    pub fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }
    /// A number that is 0 or 1.
    pub fn flag(&mut self) -> Option<bool> {
        self.number::<u8>().map(|number| number == 1)
    }
    /// A list, each item as `read` reads it.
    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // What the number promises must be there: it is no reason to make room.
        (0..self.number::<usize>()?).map(|_| read(self)).collect()
    }
    /// A list of words.
    pub fn words(&mut self) -> Option<Vec<Vec<u8>>> {
        self.list(Self::bytes)
    }
    /// A list of pairs of text and bytes.
    pub fn pairs(&mut self) -> Option<Vec<(String, Vec<u8>)>> {
        self.list(|from| Some((from.text()?, from.bytes()?)))
    }
}
