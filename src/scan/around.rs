//! A page and those beside it, in its segment and in the next ones.

use super::columns::Columns;
use super::edges::{Beside, Nearby};
use crate::am::datum::PageZone;
use crate::am::directory::Directory;

/// A page among those of the directory.
pub struct Around<'a> {
    /// All segments.
    pub directory: &'a Directory,
    /// Reads columns.
    pub columns: &'a mut Columns,
    /// The number of the page's segment in the directory.
    pub index: usize,
    /// The page in it.
    pub page: usize,
}

impl Nearby for Around<'_> {
    type Zone = PageZone;

    fn zone(&mut self, beside: Beside, attnum: i16) -> Result<Option<PageZone>, String> {
        let pages = |index: usize| self.directory.get(index).map_or(0, |s| s.pages());
        let (index, page) = match beside {
            Beside::This => (self.index, self.page),
            Beside::Behind if self.page + 1 < pages(self.index) => (self.index, self.page + 1),
            Beside::Behind => (self.index + 1, 0),
            Beside::Before if self.page > 0 => (self.index, self.page - 1),
            Beside::Before => {
                let before = self.index.checked_sub(1);
                match before.and_then(|index| Some((index, pages(index).checked_sub(1)?))) {
                    Some(last) => last,
                    None => return Ok(None),
                }
            }
        };
        match self.directory.get(index) {
            Some(segment) => self.columns.zone_of(segment, page, attnum),
            None => Ok(None),
        }
    }

    fn adjacent(&mut self, attnum: i16, low: &[u8], high: &[u8]) -> Result<bool, String> {
        match self.directory.get(self.index) {
            Some(segment) => self.columns.adjacent(segment, attnum, low, high),
            None => Ok(false),
        }
    }
}
