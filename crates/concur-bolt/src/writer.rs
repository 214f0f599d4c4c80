//! Writes a file from sorted entries: pages leave as they fill, the branches above them are written as they fill too.

use crate::{
    BRANCH, BUCKET_HEADER, BoltError, ELEMENT, FREE_LIST, IS_BUCKET, KEY_BYTES_MAX, LEAF, MAGIC, META, META_PAGE, PAGE_BYTES, PAGE_HEADER,
    VALUE_BYTES_MAX, VERSION, fnv,
};
use std::collections::BTreeMap;
use std::io::{Sink, Write};

/// Two metas and a free list.
const PAGES_BEFORE: u64 = 3;
/// A bucket of at most so many bytes is written into its element.
const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
/// A branch leads to so many pages at least: bbolt counts on it when it rebalances.
const CHILDREN_MIN: usize = 2;

/// What the metas say: known only when everything was written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    pages: u64,
}

impl Layout {
    /// How large the file is.
    pub fn bytes(self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// Writes a file. Begun by [`measure`](Writer::measure) it writes to nowhere and finds the layout, with which
/// [`new`](Writer::new) begins the real one.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    next: u64,
    layout: Option<Layout>,
    /// What the root's leaves will hold, by name.
    buckets: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Writer<Sink> {
    /// Finds out how the file will be.
    pub fn measure() -> Self {
        Self { out: std::io::sink(), next: PAGES_BEFORE, layout: None, buckets: BTreeMap::new() }
    }
}

impl<W: Write> Writer<W> {
    /// Begins a file whose layout is known. Streams should be buffered; each page is one write.
    pub fn new(mut out: W, layout: Layout) -> Result<Self, BoltError> {
        out.write_all(&meta(0, 1, layout))?;
        out.write_all(&meta(1, 0, layout))?;
        let mut free = header(2, FREE_LIST, 0, 0).to_vec();
        free.resize(PAGE_BYTES, 0);
        out.write_all(&free)?;
        Ok(Self { out, next: PAGES_BEFORE, layout: Some(layout), buckets: BTreeMap::new() })
    }

    /// Begins a bucket. Buckets come in any order, their entries in that of their keys.
    pub fn bucket(&mut self, name: &[u8]) -> BucketWriter<'_, W> {
        BucketWriter { tree: Tree::default(), last: None, name: name.to_vec(), writer: self }
    }

    /// Writes the root and ends the file. What is behind the stream is neither flushed nor synced.
    pub fn finish(mut self) -> Result<(Layout, W), BoltError> {
        let mut tree = Tree::default();
        for (name, bucket) in std::mem::take(&mut self.buckets) {
            tree.put(&mut self, IS_BUCKET, &name, &bucket)?;
        }
        let root = tree.finish(&mut self)?;
        let layout = Layout { root, pages: self.next };
        if self.layout.is_some_and(|promised| promised != layout) {
            return Err(BoltError::Unwritable("what was written is not what was measured"));
        }
        Ok((layout, self.out))
    }

    /// Writes a page, with the pages that it needs behind it, and returns its number.
    fn page(&mut self, kind: u16, count: usize, contents: &[&[u8]]) -> Result<u64, BoltError> {
        let bytes = PAGE_HEADER + contents.iter().map(|part| part.len()).sum::<usize>();
        let pages = bytes.div_ceil(PAGE_BYTES);
        let number = self.next;
        let count = u16::try_from(count).map_err(|_| BoltError::Unwritable("a page of too many elements"))?;
        self.next += pages as u64;
        let mut page = Vec::with_capacity(pages * PAGE_BYTES);
        page.extend_from_slice(&header(number, kind, count, pages as u32 - 1));
        contents.iter().for_each(|part| page.extend_from_slice(part));
        page.resize(pages * PAGE_BYTES, 0);
        self.out.write_all(&page)?;
        Ok(number)
    }
}

/// Writes one bucket of a file.
#[derive(Debug)]
pub struct BucketWriter<'w, W: Write> {
    writer: &'w mut Writer<W>,
    name: Vec<u8>,
    tree: Tree,
    last: Option<Vec<u8>>,
}

impl<W: Write> BucketWriter<'_, W> {
    /// Adds an entry, whose key comes behind all before.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        if self.last.as_ref().is_some_and(|last| &last[..] >= key) {
            return Err(BoltError::Unwritable("keys that are not in order"));
        }
        self.tree.put(self.writer, 0, key, value)?;
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(())
    }

    /// Ends the bucket.
    pub fn finish(mut self) -> Result<(), BoltError> {
        let mut bucket = vec![0; BUCKET_HEADER];
        if self.tree.is_small() {
            bucket.extend_from_slice(&header(0, LEAF, self.tree.leaf.count() as u16, 0));
            self.tree.leaf.contents().iter().for_each(|part| bucket.extend_from_slice(part));
        } else {
            let root = self.tree.finish(self.writer)?;
            bucket[..8].copy_from_slice(&root.to_le_bytes());
        }
        match self.writer.buckets.insert(std::mem::take(&mut self.name), bucket) {
            None => Ok(()),
            Some(_) => Err(BoltError::Unwritable("two buckets of one name")),
        }
    }
}

/// A tree that is written from its leaves up.
#[derive(Debug, Default)]
struct Tree {
    leaf: Leaf,
    leaves: usize,
    /// Those nearest to the leaves first.
    branches: Vec<Branch>,
}

impl Tree {
    fn put<W: Write>(&mut self, writer: &mut Writer<W>, flags: u32, key: &[u8], value: &[u8]) -> Result<(), BoltError> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(BoltError::Unwritable("a key that is empty or too long"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(BoltError::Unwritable("a value that is too long"));
        }
        if self.leaf.count() > 0 && self.leaf.bytes() + ELEMENT + key.len() + value.len() > PAGE_BYTES {
            self.write_leaf(writer)?;
        }
        self.leaf.put(flags, key, value);
        Ok(())
    }

    /// Whether it is one leaf that fits into its bucket's element.
    fn is_small(&self) -> bool {
        self.leaves == 0 && self.leaf.bytes() <= INLINE_BYTES_MAX
    }

    fn write_leaf<W: Write>(&mut self, writer: &mut Writer<W>) -> Result<u64, BoltError> {
        let leaf = std::mem::take(&mut self.leaf);
        let parts = leaf.contents();
        let number = writer.page(LEAF, leaf.count(), &[&parts[0], &parts[1]])?;
        self.leaves += 1;
        self.add(writer, 0, leaf.first, number)?;
        Ok(number)
    }

    /// Adds a page to the branch above it, and writes what is full there.
    fn add<W: Write>(&mut self, writer: &mut Writer<W>, level: usize, first: Vec<u8>, page: u64) -> Result<(), BoltError> {
        if level == self.branches.len() {
            self.branches.push(Branch::default());
        }
        let branch = &mut self.branches[level];
        branch.children.push((first, page));
        let fitting = branch.fitting();
        if branch.children.len() < fitting + CHILDREN_MIN {
            return Ok(());
        }
        self.write_branch(writer, level, fitting).map(drop)
    }

    fn write_branch<W: Write>(&mut self, writer: &mut Writer<W>, level: usize, count: usize) -> Result<u64, BoltError> {
        let branch = &mut self.branches[level];
        let rest = branch.children.split_off(count);
        let children = std::mem::replace(&mut branch.children, rest);
        branch.written += 1;
        let (mut elements, mut keys) = (Vec::with_capacity(children.len() * ELEMENT), Vec::new());
        for (i, (key, page)) in children.iter().enumerate() {
            let at = (children.len() - i) * ELEMENT + keys.len();
            elements.extend_from_slice(&(at as u32).to_le_bytes());
            elements.extend_from_slice(&(key.len() as u32).to_le_bytes());
            elements.extend_from_slice(&page.to_le_bytes());
            keys.extend_from_slice(key);
        }
        let number = writer.page(BRANCH, children.len(), &[&elements, &keys])?;
        let first = children.into_iter().next().map(|(first, _)| first).unwrap_or_default();
        self.add(writer, level + 1, first, number)?;
        Ok(number)
    }

    /// Writes what is left, and returns the root's page.
    fn finish<W: Write>(&mut self, writer: &mut Writer<W>) -> Result<u64, BoltError> {
        if self.leaves == 0 || self.leaf.count() > 0 {
            self.write_leaf(writer)?;
        }
        let mut level = 0;
        loop {
            let Branch { children, written } = &self.branches[level];
            if let ([(_, only)], 0) = (&children[..], written) {
                return Ok(*only);
            }
            // One page, unless that leaves a neighbour with too little.
            let (count, fitting) = (children.len(), self.branches[level].fitting());
            if count > fitting && count >= 2 * CHILDREN_MIN {
                self.write_branch(writer, level, count / 2)?;
            }
            let rest = self.branches[level].children.len();
            if rest > 0 {
                self.write_branch(writer, level, rest)?;
            }
            level += 1;
        }
    }
}

/// A leaf that fills.
#[derive(Debug, Default)]
struct Leaf {
    first: Vec<u8>,
    elements: Vec<(u32, u32, u32)>,
    data: Vec<u8>,
}

impl Leaf {
    fn count(&self) -> usize {
        self.elements.len()
    }

    fn bytes(&self) -> usize {
        PAGE_HEADER + self.elements.len() * ELEMENT + self.data.len()
    }

    fn put(&mut self, flags: u32, key: &[u8], value: &[u8]) {
        if self.elements.is_empty() {
            self.first = key.to_vec();
        }
        self.elements.push((flags, key.len() as u32, value.len() as u32));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    /// The elements, and the keys and values behind them.
    fn contents(&self) -> [Vec<u8>; 2] {
        let (mut elements, mut before) = (Vec::with_capacity(self.elements.len() * ELEMENT), 0);
        for (i, &(flags, key, value)) in self.elements.iter().enumerate() {
            let at = ((self.elements.len() - i) * ELEMENT) as u32 + before;
            for number in [flags, at, key, value] {
                elements.extend_from_slice(&number.to_le_bytes());
            }
            before += key + value;
        }
        [elements, self.data.clone()]
    }
}

/// A branch that fills. It keeps a few children more than a page holds, so that the last page of a level has enough too.
#[derive(Debug, Default)]
struct Branch {
    children: Vec<(Vec<u8>, u64)>,
    written: usize,
}

impl Branch {
    /// How many of the children one page holds, or should.
    fn fitting(&self) -> usize {
        let mut bytes = PAGE_HEADER;
        let fits = |(key, _): &&(Vec<u8>, u64)| {
            bytes += ELEMENT + key.len();
            bytes <= PAGE_BYTES
        };
        self.children.iter().take_while(fits).count().max(CHILDREN_MIN)
    }
}

fn header(number: u64, kind: u16, count: u16, overflow: u32) -> [u8; PAGE_HEADER] {
    let mut header = [0; PAGE_HEADER];
    header[..8].copy_from_slice(&number.to_le_bytes());
    header[8..10].copy_from_slice(&kind.to_le_bytes());
    header[10..12].copy_from_slice(&count.to_le_bytes());
    header[12..].copy_from_slice(&overflow.to_le_bytes());
    header
}

fn meta(number: u64, transaction: u64, layout: Layout) -> Vec<u8> {
    let mut page = header(number, META_PAGE, 0, 0).to_vec();
    for word in [MAGIC, VERSION, PAGE_BYTES as u32, 0] {
        page.extend_from_slice(&word.to_le_bytes());
    }
    for number in [layout.root, 0, 2, layout.pages, transaction] {
        page.extend_from_slice(&number.to_le_bytes());
    }
    let sum = fnv(&page[PAGE_HEADER..]);
    page.extend_from_slice(&sum.to_le_bytes());
    debug_assert_eq!(page.len(), PAGE_HEADER + META);
    page.resize(PAGE_BYTES, 0);
    page
}
