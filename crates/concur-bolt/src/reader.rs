//! Reads a file, from wherever it comes. Every number is checked before it is used.

use crate::{
    BRANCH, BUCKET_HEADER, BoltError, ELEMENT, IS_BUCKET, KEY_BYTES_MAX, LEAF, MAGIC, META, META_PAGE, PAGE_HEADER, VALUE_BYTES_MAX,
    VERSION, fnv,
};
use bytes::{Buf, Bytes};
use std::io::{ErrorKind, Read, Seek, SeekFrom};

/// Pages are of the machine's size: 4 KiB, more on some.
const PAGE_BYTES: std::ops::RangeInclusive<u64> = 1024..=65536;
/// A tree that is deeper holds more than any file can.
const DEPTH_MAX: usize = 32;
/// What one element may take, and what stands before it.
const RUN_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64 + (1 << 20);

/// A database that is read.
#[derive(Debug)]
pub struct Reader<R> {
    file: R,
    page_bytes: u64,
    pages: u64,
    root: u64,
    transaction: u64,
}

/// An entry of a leaf.
#[derive(Debug, Clone)]
struct Element {
    is_bucket: bool,
    key: Bytes,
    value: Bytes,
}

impl<R: Read + Seek> Reader<R> {
    /// Reads the metas. Of the file the first `bytes` are the database.
    pub fn open(mut file: R, bytes: u64) -> Result<Self, BoltError> {
        let first = read_meta(&mut file, 0, 0, bytes)?;
        // Where the second begins the first says, or if it is damaged one of the sizes that pages have.
        let known = first.as_ref().map(|meta| meta.page_bytes);
        let mut best = first;
        for size in (10..=16).map(|bits| 1 << bits).filter(|&size| known.is_none_or(|known| known == size)) {
            let second = read_meta(&mut file, 1, size, bytes)?.filter(|meta| meta.page_bytes == size);
            best = match (best, second) {
                (Some(a), Some(b)) => Some(if b.transaction > a.transaction { b } else { a }),
                (a, b) => a.or(b),
            };
        }
        let Meta { page_bytes, root, pages, transaction } = best.ok_or(BoltError::NotOne)?;
        if pages.checked_mul(page_bytes).is_none_or(|used| used > bytes) {
            return Err(BoltError::Damaged { page: 0, what: "the file is shorter than it says" });
        }
        Ok(Self { file, page_bytes, pages, root, transaction })
    }

    /// The transaction that the file is of.
    pub fn transaction(&self) -> u64 {
        self.transaction
    }

    /// The names of the buckets.
    pub fn buckets(&mut self) -> Result<Vec<Bytes>, BoltError> {
        self.root_elements()?.map(|element| element.map(|element| element.key)).collect()
    }

    /// The entries of a bucket, in the order of their keys; none if there is no such bucket.
    pub fn bucket(&mut self, name: &[u8]) -> Result<Option<Entries<'_, R>>, BoltError> {
        let root = self.root;
        let mut found = None;
        for element in self.root_elements()? {
            let element = element?;
            if !element.is_bucket {
                return Err(BoltError::Damaged { page: root, what: "the root holds what is no bucket" });
            }
            if element.key == name {
                found = Some(element.value);
            }
        }
        let Some(mut bucket) = found else { return Ok(None) };
        if bucket.len() < BUCKET_HEADER {
            return Err(BoltError::Damaged { page: root, what: "a bucket without a beginning" });
        }
        let page = bucket.get_u64_le();
        bucket.advance(BUCKET_HEADER - 8);
        let mut elements = Elements::new(self, page);
        if page == 0 {
            // The leaf stands in place of its page.
            let leaf = Page::parse(root, bucket)?;
            if leaf.kind != LEAF || leaf.overflow != 0 {
                return Err(BoltError::Damaged { page: root, what: "a small bucket that is no leaf" });
            }
            elements.stack = vec![Place { page: leaf, next: 0 }];
        } else {
            elements.begin = Some(page);
        }
        Ok(Some(Entries(elements)))
    }

    fn root_elements(&mut self) -> Result<Elements<'_, R>, BoltError> {
        let root = self.root;
        Ok(Elements { begin: Some(root), ..Elements::new(self, root) })
    }

    /// Reads a page and those that belong to it.
    fn page(&mut self, number: u64) -> Result<Page, BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        if number < 2 || number >= self.pages {
            return Err(damaged("there is no such page"));
        }
        // Within the file, as `open` has seen to.
        let at = number * self.page_bytes;
        let mut header = [0; PAGE_HEADER];
        read_at(&mut self.file, at, &mut header).map_err(|error| early(error, number))?;
        let overflow = u64::from(u32::from_le_bytes([header[12], header[13], header[14], header[15]]));
        let run = overflow + 1;
        if run > self.pages - number || run * self.page_bytes > RUN_BYTES_MAX {
            return Err(damaged("it goes on beyond what there is"));
        }
        let mut bytes = vec![0; (run * self.page_bytes) as usize];
        read_at(&mut self.file, at, &mut bytes).map_err(|error| early(error, number))?;
        let page = Page::parse(number, bytes.into())?;
        if page.number != number {
            return Err(damaged("it says that it is another"));
        }
        Ok(page)
    }
}

/// The entries of one bucket. Ends with the first error.
#[derive(Debug)]
pub struct Entries<'r, R>(Elements<'r, R>);

impl<R: Read + Seek> Iterator for Entries<'_, R> {
    type Item = Result<(Bytes, Bytes), BoltError>;

    fn next(&mut self) -> Option<Self::Item> {
        let root = self.0.root;
        let element = self.0.next()?;
        Some(element.and_then(|element| match element.is_bucket {
            false => Ok((element.key, element.value)),
            true => Err(BoltError::Damaged { page: root, what: "a bucket within a bucket" }),
        }))
    }
}

/// Walks a tree without recursion.
#[derive(Debug)]
struct Elements<'r, R> {
    reader: &'r mut Reader<R>,
    root: u64,
    /// The page to begin with.
    begin: Option<u64>,
    /// From the root down, and which child or entry of each comes next.
    stack: Vec<Place>,
    /// Pages that may be visited yet: no tree has more than there are.
    left: u64,
    last: Option<Bytes>,
}

#[derive(Debug)]
struct Place {
    page: Page,
    next: usize,
}

impl<'r, R: Read + Seek> Elements<'r, R> {
    fn new(reader: &'r mut Reader<R>, root: u64) -> Self {
        let left = reader.pages;
        Self { reader, root, begin: None, stack: Vec::new(), left, last: None }
    }

    fn enter(&mut self, number: u64) -> Result<(), BoltError> {
        let damaged = |what| BoltError::Damaged { page: number, what };
        if self.stack.len() >= DEPTH_MAX {
            return Err(damaged("the tree is too deep"));
        }
        let page = self.reader.page(number)?;
        if page.kind != LEAF && page.kind != BRANCH {
            return Err(damaged("it is neither leaf nor branch"));
        }
        if page.kind == BRANCH && page.count == 0 {
            return Err(damaged("a branch without children"));
        }
        let run = page.overflow + 1;
        self.left = self.left.checked_sub(run).ok_or_else(|| damaged("more pages are used than there are"))?;
        self.stack.push(Place { page, next: 0 });
        Ok(())
    }

    fn step(&mut self) -> Result<Option<Element>, BoltError> {
        if let Some(root) = self.begin.take() {
            self.enter(root)?;
        }
        while let Some(place) = self.stack.last_mut() {
            let at = place.next;
            if at == place.page.count {
                self.stack.pop();
                continue;
            }
            place.next += 1;
            if place.page.kind == BRANCH {
                let child = place.page.child(at)?;
                self.enter(child)?;
                continue;
            }
            let element = place.page.element(at)?;
            if self.last.as_ref().is_some_and(|last| *last >= element.key) {
                return Err(place.page.damaged("its keys are not in order"));
            }
            self.last = Some(element.key.clone());
            return Ok(Some(element));
        }
        Ok(None)
    }
}

impl<R: Read + Seek> Iterator for Elements<'_, R> {
    type Item = Result<Element, BoltError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.stack.clear();
        }
        step.transpose()
    }
}

/// A page, with those that belong to it.
#[derive(Debug)]
struct Page {
    number: u64,
    kind: u16,
    count: usize,
    overflow: u64,
    bytes: Bytes,
}

impl Page {
    /// `at` is where the page stands, or the one in which it does.
    fn parse(at: u64, bytes: Bytes) -> Result<Self, BoltError> {
        let damaged = |what| BoltError::Damaged { page: at, what };
        if bytes.len() < PAGE_HEADER {
            return Err(damaged("a page without a beginning"));
        }
        let mut fields = &bytes[..PAGE_HEADER];
        let (number, kind, count, overflow) = (fields.get_u64_le(), fields.get_u16_le(), fields.get_u16_le(), fields.get_u32_le());
        let count = usize::from(count);
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return Err(damaged("more elements than it can hold"));
        }
        Ok(Self { number, kind, count, overflow: u64::from(overflow), bytes })
    }

    fn damaged(&self, what: &'static str) -> BoltError {
        BoltError::Damaged { page: self.number, what }
    }

    /// The fields of an element, which is there.
    fn fields(&self, at: usize) -> &[u8] {
        let from = PAGE_HEADER + at * ELEMENT;
        &self.bytes[from..from + ELEMENT]
    }

    fn child(&self, at: usize) -> Result<u64, BoltError> {
        let mut fields = &self.fields(at)[8..];
        Ok(fields.get_u64_le())
    }

    fn element(&self, at: usize) -> Result<Element, BoltError> {
        let mut fields = self.fields(at);
        let (flags, position, key, value) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
        let [position, key, value] = [position, key, value].map(|number| number as usize);
        if flags & !IS_BUCKET != 0 {
            return Err(self.damaged("an element of no kind"));
        }
        if key > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(self.damaged("an element that is too long"));
        }
        let from = PAGE_HEADER + at * ELEMENT + position;
        let before = PAGE_HEADER + self.count * ELEMENT;
        if from < before || from + key + value > self.bytes.len() {
            return Err(self.damaged("an element outside of it"));
        }
        let middle = from + key;
        Ok(Element { is_bucket: flags == IS_BUCKET, key: self.bytes.slice(from..middle), value: self.bytes.slice(middle..middle + value) })
    }
}

struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

/// A meta, if a valid one is there.
fn read_meta(file: &mut (impl Read + Seek), number: u64, page_bytes: u64, bytes: u64) -> Result<Option<Meta>, BoltError> {
    let at = number * page_bytes;
    let mut page = [0; PAGE_HEADER + META];
    if at + page.len() as u64 > bytes {
        return Ok(None);
    }
    read_at(file, at, &mut page).map_err(|error| early(error, number))?;
    let (mut header, mut meta) = page.split_at(PAGE_HEADER);
    let (place, kind) = (header.get_u64_le(), header.get_u16_le());
    let sum = fnv(&meta[..META - 8]);
    let (magic, version, size, _flags) = (meta.get_u32_le(), meta.get_u32_le(), meta.get_u32_le(), meta.get_u32_le());
    let (root, _sequence, _free, pages, transaction) =
        (meta.get_u64_le(), meta.get_u64_le(), meta.get_u64_le(), meta.get_u64_le(), meta.get_u64_le());
    let page_bytes = u64::from(size);
    let valid = magic == MAGIC && version == VERSION && meta.get_u64_le() == sum && place == number && kind == META_PAGE;
    let sane = page_bytes.is_power_of_two() && PAGE_BYTES.contains(&page_bytes);
    Ok((valid && sane).then_some(Meta { page_bytes, root, pages, transaction }))
}

fn read_at(file: &mut (impl Read + Seek), at: u64, into: &mut [u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(into)
}

/// A file that ends before its time is damaged, not unreadable.
fn early(error: std::io::Error, page: u64) -> BoltError {
    match error.kind() {
        ErrorKind::UnexpectedEof => BoltError::Damaged { page, what: "the file ends before it" },
        _ => BoltError::Io(error),
    }
}
