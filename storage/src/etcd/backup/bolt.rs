//! Writes a bbolt database once, front to back: pages of sorted keys, the pages that index them, and at last the two
//! pages that say where the root is.
//!
//! A page is `id u64 | flags u16 | count u16 | overflow u32 | elements | keys and values`, all little-endian; a page that
//! needs more space runs on over the next `overflow` ones.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

const PAGE: usize = 4096;
const PAGE_SIZE: u32 = 4096;
const HEADER: usize = 16;
const ELEMENT: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const IS_BUCKET: u32 = 1;
/// Two pages of meta data and the list of free pages stand before all others.
const FREE_LIST_PAGE: u64 = 2;
const FIRST_PAGE: u64 = 3;

/// Appends pages to a file.
pub(super) struct Writer {
    out: BufWriter<File>,
    next: u64,
}

fn narrow<T: TryFrom<usize>>(number: usize) -> io::Result<T> {
    T::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

impl Writer {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(64 << 10, file);
        out.write_all(&[0; PAGE * 2])?;
        let mut free = vec![0; PAGE];
        free[..8].copy_from_slice(&FREE_LIST_PAGE.to_le_bytes());
        free[8..10].copy_from_slice(&FREE_LIST.to_le_bytes());
        out.write_all(&free)?;
        Ok(Self { out, next: FIRST_PAGE })
    }

    /// Appends a page. `elements` are complete but for where their data lies.
    fn page(&mut self, node: &Node) -> io::Result<u64> {
        let size = node.size();
        let pages = size.div_ceil(PAGE);
        let id = self.next;
        self.next += pages as u64;
        let mut page = Vec::with_capacity(pages * PAGE);
        page.extend(id.to_le_bytes());
        page.extend(node.kind.to_le_bytes());
        page.extend(narrow::<u16>(node.entries.len())?.to_le_bytes());
        page.extend(narrow::<u32>(pages - 1)?.to_le_bytes());
        let mut data = HEADER + ELEMENT * node.entries.len();
        for entry in &node.entries {
            // Counted from the element itself.
            let position = narrow::<u32>(data - page.len())?;
            match entry.child {
                Some(child) => {
                    page.extend(position.to_le_bytes());
                    page.extend(narrow::<u32>(entry.key.len())?.to_le_bytes());
                    page.extend(child.to_le_bytes());
                }
                None => {
                    page.extend(entry.flags.to_le_bytes());
                    page.extend(position.to_le_bytes());
                    page.extend(narrow::<u32>(entry.key.len())?.to_le_bytes());
                    page.extend(narrow::<u32>(entry.value.len())?.to_le_bytes());
                }
            }
            data += entry.key.len() + entry.value.len();
        }
        for entry in &node.entries {
            page.extend(&entry.key);
            page.extend(&entry.value);
        }
        page.resize(pages * PAGE, 0);
        self.out.write_all(&page)?;
        Ok(id)
    }

    /// Writes the root, which names the buckets, and completes the file. Returns it, at its start, and its size.
    pub(super) fn finish(mut self, buckets: &[(&str, u64)]) -> io::Result<(File, u64)> {
        let mut root = Bucket::new();
        for (name, page) in buckets {
            let mut value = page.to_le_bytes().to_vec();
            value.extend(0u64.to_le_bytes());
            let key = name.as_bytes().to_vec();
            root.entry(&mut self, Entry { key, value, flags: IS_BUCKET, child: None })?;
        }
        let root = root.finish(&mut self)?;
        let size = self.next * PAGE as u64;
        let end = self.next;
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.seek(SeekFrom::Start(0))?;
        for page in [0, 1] {
            file.write_all(&meta(page, root, end))?;
        }
        file.seek(SeekFrom::Start(0))?;
        Ok((file, size))
    }
}

fn meta(page: u64, root: u64, end: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PAGE);
    bytes.extend(page.to_le_bytes());
    bytes.extend(META.to_le_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(PAGE_SIZE.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(root.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(FREE_LIST_PAGE.to_le_bytes());
    bytes.extend(end.to_le_bytes());
    // The transaction that wrote it: the page with the higher one counts.
    bytes.extend(page.to_le_bytes());
    let checksum = fnv(&bytes[HEADER..]);
    bytes.extend(checksum.to_le_bytes());
    bytes.resize(PAGE, 0);
    bytes
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

struct Entry {
    key: Vec<u8>,
    value: Vec<u8>,
    flags: u32,
    /// The page that an index points to.
    child: Option<u64>,
}

impl Entry {
    fn size(&self) -> usize {
        ELEMENT + self.key.len() + self.value.len()
    }
}

struct Node {
    kind: u16,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Node {
    fn new(kind: u16) -> Self {
        Self { kind, entries: Vec::new(), bytes: 0 }
    }

    fn size(&self) -> usize {
        HEADER + self.bytes
    }
}

/// A tree that is built from keys in ascending order: one open page per level, the leaves first.
pub(super) struct Bucket {
    levels: Vec<Node>,
}

impl Bucket {
    pub(super) fn new() -> Self {
        Self { levels: vec![Node::new(LEAF)] }
    }

    /// The next key, above all before it.
    pub(super) fn add(&mut self, writer: &mut Writer, key: Vec<u8>, value: &[u8]) -> io::Result<()> {
        self.entry(writer, Entry { key, value: value.to_vec(), flags: 0, child: None })
    }

    fn entry(&mut self, writer: &mut Writer, entry: Entry) -> io::Result<()> {
        let mut carried = Some(entry);
        let mut level = 0;
        while let Some(entry) = carried.take() {
            if level == self.levels.len() {
                self.levels.push(Node::new(BRANCH));
            }
            let node = &mut self.levels[level];
            if !node.entries.is_empty() && node.size() + entry.size() > PAGE {
                carried = close(writer, node)?;
            }
            node.bytes += entry.size();
            node.entries.push(entry);
            level += 1;
        }
        Ok(())
    }

    /// Writes what is open. Returns the root page.
    pub(super) fn finish(mut self, writer: &mut Writer) -> io::Result<u64> {
        let mut level = 0;
        loop {
            if level + 1 == self.levels.len() {
                return writer.page(&self.levels[level]);
            }
            if let Some(entry) = close(writer, &mut self.levels[level])? {
                let above = &mut self.levels[level + 1];
                above.bytes += entry.size();
                above.entries.push(entry);
            }
            level += 1;
        }
    }
}

/// Writes a page and empties it. Returns the entry that points to it.
fn close(writer: &mut Writer, node: &mut Node) -> io::Result<Option<Entry>> {
    let Some(first) = node.entries.first() else { return Ok(None) };
    let key = first.key.clone();
    let page = writer.page(node)?;
    *node = Node::new(node.kind);
    Ok(Some(Entry { key, value: Vec::new(), flags: 0, child: Some(page) }))
}
