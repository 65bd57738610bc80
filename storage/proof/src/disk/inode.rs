//! One file's content: what programs read, what is on the platter, and every version of each sector between the two.

use std::collections::BTreeMap;
use std::io;

use crate::seeded::Seeded;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

type Sector = [u8; SECTOR];

/// How the unflushed part of a file comes through a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Survival {
    Nothing,
    Everything,
    /// Each sector on its own, in any of its versions.
    Sectors,
    /// Each page on its own, as it was last.
    Pages,
    /// The writes up to some sector.
    Prefix,
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    /// What programs read.
    content: Vec<u8>,
    platter: Vec<u8>,
    /// Versions since the last flush, oldest first.
    unflushed: BTreeMap<usize, Vec<Sector>>,
    /// Lengths since the last flush.
    lengths: Vec<usize>,
    /// Emptied since the last flush.
    emptied: bool,
}

fn sector(content: &[u8], number: usize) -> Sector {
    let mut sector = [0; SECTOR];
    let part = content.get(number * SECTOR..).unwrap_or_default();
    let length = part.len().min(SECTOR);
    sector[..length].copy_from_slice(&part[..length]);
    sector
}

fn store(content: &mut [u8], number: usize, sector: &Sector) {
    let part = content.get_mut(number * SECTOR..).unwrap_or_default();
    let length = part.len().min(SECTOR);
    part[..length].copy_from_slice(&sector[..length]);
}

impl Inode {
    pub(super) fn len(&self) -> usize {
        self.content.len()
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) -> io::Result<()> {
        let found = self.content.get(offset..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        self.grow(offset + bytes.len());
        self.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        for number in offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR) {
            let version = sector(&self.content, number);
            self.unflushed.entry(number).or_default().push(version);
        }
    }

    pub(super) fn grow(&mut self, length: usize) {
        if length > self.content.len() {
            self.content.resize(length, 0);
            self.lengths.push(length);
        }
    }

    pub(super) fn clear(&mut self) {
        self.content.clear();
        self.unflushed.clear();
        self.lengths = vec![0];
        self.emptied = true;
    }

    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.emptied) {
            self.platter.clear();
        }
        self.platter.resize(self.content.len(), 0);
        for number in std::mem::take(&mut self.unflushed).into_keys() {
            let version = sector(&self.content, number);
            store(&mut self.platter, number, &version);
        }
        self.lengths.clear();
    }

    /// The disk could not write: some of it arrived. Programs still read all of it, and no later flush tries again.
    pub(super) fn fail_flush(&mut self, random: &mut Seeded) {
        let content = self.content.clone();
        self.settle(random);
        self.platter = std::mem::replace(&mut self.content, content);
        let length = self.content.len();
        if self.platter.len() != length {
            self.lengths.push(length);
        }
    }

    /// What a power cut leaves.
    pub(super) fn settle(&mut self, random: &mut Seeded) {
        let modes = [Survival::Nothing, Survival::Everything, Survival::Sectors, Survival::Pages, Survival::Prefix];
        let mode = modes[random.index(modes.len())];
        let mut unflushed = std::mem::take(&mut self.unflushed);
        let lengths = std::mem::take(&mut self.lengths);
        let length = match mode {
            Survival::Nothing => None,
            Survival::Everything => lengths.last(),
            _ => lengths.get(random.index(lengths.len() + 1)),
        };
        if std::mem::take(&mut self.emptied) {
            match length {
                Some(_) => self.platter.clear(),
                None => unflushed.clear(),
            }
        }
        self.platter.resize(length.copied().unwrap_or(self.platter.len()), 0);
        let until = random.index(unflushed.len() + 1);
        let kept_pages = random.number();
        for (position, (number, versions)) in unflushed.iter().enumerate() {
            let version = match mode {
                Survival::Nothing => None,
                Survival::Everything => versions.last(),
                Survival::Sectors => versions.get(random.index(versions.len() + 1)),
                Survival::Pages => versions.last().filter(|_| kept_pages >> (number * SECTOR / PAGE % 64) & 1 == 1),
                Survival::Prefix => versions.last().filter(|_| position < until),
            };
            if let Some(version) = version {
                store(&mut self.platter, *number, version);
            }
        }
        self.content = self.platter.clone();
    }

    /// Turns one bit over, on the platter too.
    pub(super) fn flip(&mut self, offset: usize, bit: u32) {
        for copy in [&mut self.content, &mut self.platter] {
            if let Some(byte) = copy.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_flushed_stays_and_what_is_not_comes_in_some_version() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut file = Inode::default();
            file.write(&[1; 1024], 0);
            file.flush();
            file.write(&[2; 1024], 0);
            file.write(&[3; 600], 0);
            file.settle(&mut Seeded::new(seed));
            assert_eq!(file.len(), 1024);
            assert!(file.content()[..512].iter().all(|byte| *byte == file.content()[0]), "a sector is whole");
            seen.insert((file.content()[0], file.content()[512], file.content()[1023]));
        }
        assert!(seen.contains(&(1, 1, 1)) && seen.contains(&(3, 3, 2)) && seen.contains(&(3, 1, 1)), "{seen:?}");
        assert!(seen.contains(&(2, 1, 1)) && seen.contains(&(1, 3, 2)), "{seen:?}");
    }

    #[test]
    fn a_length_may_come_without_its_data() {
        let bare = (0..100).any(|seed| {
            let mut file = Inode::default();
            file.write(&[7; 2000], 0);
            file.settle(&mut Seeded::new(seed));
            file.len() == 2000 && file.content()[..512] == [0; 512]
        });
        assert!(bare);
    }
}
