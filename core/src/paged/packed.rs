//! pco over the pages of integers of a column: one chunk, whose metadata stands in the index, and a pco page
//! for each of ours.

use pco::wrapped::{ChunkDecompressor, FileCompressor, FileDecompressor};
use pco::{ChunkConfig, PagingSpec};

use super::kernels::Block;
use crate::error::CoreError;

/// Of 12. The next ones take several times as long for a thousandth.
const LEVEL: usize = 10;

/// What all pages share, and the pages.
pub(crate) struct Packed {
    pub(crate) meta: Vec<u8>,
    pub(crate) pages: Vec<Vec<u8>>,
}

/// Packs pages, none of which may be empty.
pub(crate) fn pack(pages: &[&[i64]]) -> Result<Option<Packed>, CoreError> {
    if pages.is_empty() {
        return Ok(None);
    }
    let invalid = |error| CoreError::invalid(format!("pco: {error}"));
    let config = ChunkConfig::default()
        .with_compression_level(LEVEL)
        .with_paging_spec(PagingSpec::Exact(
            pages.iter().map(|page| page.len()).collect(),
        ));
    let file = FileCompressor::default();
    let mut chunk = file
        .chunk_compressor(&pages.concat(), &config)
        .map_err(invalid)?;
    let mut meta = Vec::new();
    file.write_header(&mut meta).map_err(invalid)?;
    chunk.write_meta(&mut meta).map_err(invalid)?;
    let mut out = Vec::with_capacity(pages.len());
    for page in 0..pages.len() {
        let mut bytes = Vec::new();
        chunk.write_page(page, &mut bytes).map_err(invalid)?;
        out.push(bytes);
    }
    Ok(Some(Packed { meta, pages: out }))
}

/// Reads pages of the column that was decoded last without reading its metadata again.
#[derive(Default)]
pub(crate) struct Unpacker(Option<(u64, ChunkDecompressor<i64>)>);

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Unpacker {
    /// Reads a page of `count` numbers into the beginning of `out`. `column` tells columns apart.
    pub(crate) fn read(
        &mut self,
        column: u64,
        meta: &[u8],
        page: &[u8],
        count: usize,
        out: &mut Block,
    ) -> Result<(), CoreError> {
        let corrupt = |error| CoreError::corrupt(format!("pco: {error}"));
        let chunk = match &mut self.0 {
            Some((of, chunk)) if *of == column => chunk,
            other => {
                let (file, rest) = FileDecompressor::new(meta).map_err(corrupt)?;
                let (chunk, rest) = file.chunk_decompressor(rest).map_err(corrupt)?;
                if !rest.is_empty() {
                    return Err(CoreError::corrupt("bytes behind the metadata of pco"));
                }
                &mut other.insert((column, chunk)).1
            }
        };
        let mut reader = chunk.page_decompressor(page, count).map_err(corrupt)?;
        let out = out.get_mut(..count).unwrap_or_default();
        let progress = reader.read(out).map_err(corrupt)?;
        if progress.n_processed != count || !progress.finished || !reader.into_src().is_empty() {
            return Err(CoreError::corrupt("a page of pco of another length"));
        }
        Ok(())
    }
}
