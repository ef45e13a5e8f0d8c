//! Item pointers, tuple headers and datums.

use pgrx::pg_sys;

/// Block and offset of an item pointer.
pub fn tid_parts(tid: &pg_sys::ItemPointerData) -> (u32, u16) {
    let block = (u32::from(tid.ip_blkid.bi_hi) << 16) | u32::from(tid.ip_blkid.bi_lo);
    (block, tid.ip_posid)
}

/// Builds an item pointer.
pub fn make_tid(block: u32, offset: u16) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData {
            bi_hi: (block >> 16) as u16,
            bi_lo: (block & 0xFFFF) as u16,
        },
        ip_posid: offset,
    }
}

/// An item pointer as one number, in physical order.
pub fn tid_key(tid: &pg_sys::ItemPointerData) -> u64 {
    let (block, offset) = tid_parts(tid);
    (u64::from(block) << 16) | u64::from(offset)
}

/// The reverse of [`tid_key`].
pub fn tid_from_key(key: u64) -> pg_sys::ItemPointerData {
    make_tid((key >> 16) as u32, (key & 0xFFFF) as u16)
}

/// Raw xmin of a heap tuple.
pub fn raw_xmin(tuple: &pg_sys::HeapTupleHeaderData) -> pg_sys::TransactionId {
    // SAFETY: a heap tuple (not a composite datum) holds heap fields.
    unsafe { tuple.t_choice.t_heap.t_xmin }
}

/// Whether the tuple's inserter is frozen: visible to everybody.
pub fn xmin_frozen(tuple: &pg_sys::HeapTupleHeaderData) -> bool {
    let frozen = pg_sys::HEAP_XMIN_FROZEN as u16;
    tuple.t_infomask & frozen == frozen
        || raw_xmin(tuple) == pg_sys::FrozenTransactionId
        || raw_xmin(tuple) == pg_sys::BootstrapTransactionId
}

/// Whether `a` comes before `b` (both may be special xids).
pub fn xid_precedes(a: pg_sys::TransactionId, b: pg_sys::TransactionId) -> bool {
    // SAFETY: pure arithmetic.
    unsafe { pg_sys::TransactionIdPrecedes(a, b) }
}

/// Detoasts a varlena and hands its payload (without header) to `f`; frees the copy.
///
/// # Safety
/// `datum` points to a valid varlena.
pub unsafe fn with_payload<T>(datum: pg_sys::Datum, f: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: by contract. Most values lie as they are, and then the server need not be asked.
    if let Some(bytes) = unsafe { inline_payload(datum) } {
        return f(bytes);
    }
    let original = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: by contract; detoasting returns the pointer itself when nothing is to be done.
    unsafe {
        let plain = pg_sys::pg_detoast_datum_packed(original);
        let bytes = std::slice::from_raw_parts(
            pgrx::vardata_any(plain).cast::<u8>(),
            pgrx::varsize_any_exhdr(plain),
        );
        let result = f(bytes);
        if plain != original {
            pg_sys::pfree(plain.cast());
        }
        result
    }
}

/// The length of the header of a varlena that begins there, aligned or not, and its whole length; `None` where it is compressed,
/// stored elsewhere, or does not end in there.
pub fn varlena_size(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = *bytes.first()?;
    let little = cfg!(target_endian = "little");
    let (short, size) = match little {
        true => (first & 1 != 0, first >> 1),
        false => (first & 0x80 != 0, first & 0x7F),
    };
    let (header, size) = if short {
        (1, size.into())
    } else {
        let (word, _) = bytes.split_first_chunk()?;
        let word = u32::from_ne_bytes(*word);
        let (compressed, size) = match little {
            true => (word & 2 != 0, word >> 2),
            false => (word & 0x4000_0000 != 0, word & 0x3FFF_FFFF),
        };
        if compressed {
            return None;
        }
        (4, size as usize)
    };
    // A short one without a size is stored elsewhere.
    (header <= size && size <= bytes.len()).then_some((header, size))
}

/// Detoasts a varlena and hands it to `f`, with a header of four bytes and aligned as its type is; frees the copy.
///
/// # Safety
/// `datum` points to a valid varlena.
pub unsafe fn with_whole<T>(datum: pg_sys::Datum, f: impl FnOnce(&[u8]) -> T) -> T {
    let original = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: by contract; a plain varlena holds as many bytes as its header says.
    unsafe {
        let plain = match pgrx::varatt_is_4b_u(original) {
            true => original,
            false => pg_sys::pg_detoast_datum(original),
        };
        let bytes = std::slice::from_raw_parts(plain.cast::<u8>(), pgrx::varsize_any(plain));
        let result = f(bytes);
        if plain != original {
            pg_sys::pfree(plain.cast());
        }
        result
    }
}

/// All values and NULL flags of the row in a slot.
///
/// # Safety
/// The slot holds a row of `natts` attributes, which stays as long as the result is used.
pub unsafe fn slot_values<'a>(
    slot: *mut pg_sys::TupleTableSlot,
    natts: usize,
) -> (&'a [pg_sys::Datum], &'a [bool]) {
    // SAFETY: by contract; virtual slots have all values already and are not asked for them.
    unsafe {
        if ((*slot).tts_nvalid as usize) < natts {
            pg_sys::slot_getsomeattrs_int(slot, natts as i32);
        }
        (
            std::slice::from_raw_parts((*slot).tts_values, natts),
            std::slice::from_raw_parts((*slot).tts_isnull, natts),
        )
    }
}

/// The row of a slot as heap stores rows; `None` where the slot holds it otherwise.
///
/// # Safety
/// The slot holds a row, which stays as long as the result is used.
#[inline]
pub unsafe fn stored<'a>(slot: *mut pg_sys::TupleTableSlot) -> Option<&'a pg_sys::HeapTupleData> {
    // SAFETY: by contract; a slot with these functions begins with one of heap's.
    unsafe {
        if !std::ptr::eq((*slot).tts_ops, &raw const pg_sys::TTSOpsBufferHeapTuple) {
            return None;
        }
        (*slot.cast::<pg_sys::HeapTupleTableSlot>()).tuple.as_ref()
    }
}

/// The payload of a varlena that is neither compressed nor stored elsewhere.
///
/// # Safety
/// `datum` points to a valid varlena.
unsafe fn inline_payload<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: by contract; a plain varlena holds as many bytes as its header says.
    unsafe {
        if pgrx::varatt_is_1b_e(value) || pgrx::varatt_is_4b_c(value) {
            return None;
        }
        Some(std::slice::from_raw_parts(
            pgrx::vardata_any(value).cast::<u8>(),
            pgrx::varsize_any_exhdr(value),
        ))
    }
}

/// Whether two varlenas hold the same bytes, as far as that is told without fetching them.
///
/// # Safety
/// Both point to valid varlenas.
pub unsafe fn same_inline(a: pg_sys::Datum, b: pg_sys::Datum) -> bool {
    // SAFETY: by contract.
    unsafe {
        match (inline_payload(a), inline_payload(b)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }
}

/// Whether two values are the same, bit for bit (`record_image_eq`).
///
/// # Safety
/// Both are valid datums of a type with this length and passing.
pub unsafe fn same_image(a: pg_sys::Datum, b: pg_sys::Datum, byval: bool, len: i16) -> bool {
    if byval {
        // Only the type's own bytes count, however the rest was filled.
        let unused = 64 - 8 * len.clamp(1, 8) as u32;
        return (a.value() as u64) << unused == (b.value() as u64) << unused;
    }
    // SAFETY: by contract; a fixed length is that of both, others are varlenas.
    unsafe {
        if len > 0 {
            let bytes = |d: pg_sys::Datum| {
                std::slice::from_raw_parts(d.cast_mut_ptr::<u8>().cast_const(), len as usize)
            };
            return bytes(a) == bytes(b);
        }
        match (inline_payload(a), inline_payload(b)) {
            (Some(a), Some(b)) => a == b,
            _ => with_payload(a, |a| with_payload(b, |b| a == b)),
        }
    }
}

/// Makes a `bytea` (4-byte header) in the current memory context.
pub fn new_bytea(bytes: &[u8]) -> pg_sys::Datum {
    pgrx::datum::IntoDatum::into_datum(bytes).unwrap_or(pg_sys::Datum::from(0usize))
}
