//! PostgreSQL's lists.

use pgrx::pg_sys;

/// The cells of a list; none for the empty list (NULL).
///
/// # Safety
/// `list` is NULL or a valid list that outlives the result.
pub unsafe fn cells<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: by contract.
    unsafe {
        if list.is_null() || (*list).length <= 0 {
            &[]
        } else {
            std::slice::from_raw_parts((*list).elements, (*list).length as usize)
        }
    }
}

/// The pointers of a list of nodes.
///
/// # Safety
/// `list` is NULL or a valid list of pointers to `T`.
pub unsafe fn nodes<'a, T: 'a>(list: *const pg_sys::List) -> impl Iterator<Item = *mut T> + 'a {
    // SAFETY: by contract.
    unsafe { cells(list) }
        .iter()
        // SAFETY: a list of pointers.
        .map(|cell| unsafe { cell.ptr_value }.cast::<T>())
}

/// The numbers of a list of integers.
///
/// # Safety
/// `list` is NULL or a valid list of integers.
pub unsafe fn integers<'a>(list: *const pg_sys::List) -> impl Iterator<Item = i32> + 'a {
    // SAFETY: by contract.
    unsafe { cells(list) }
        .iter()
        // SAFETY: a list of integers.
        .map(|cell| unsafe { cell.int_value })
}

/// A list of nodes, in the current memory context; NULL for none.
pub fn of_nodes<T>(items: impl IntoIterator<Item = *mut T>) -> *mut pg_sys::List {
    items
        .into_iter()
        // SAFETY: lappend makes the list where there is none yet.
        .fold(std::ptr::null_mut(), |list, item| unsafe {
            pg_sys::lappend(list, item.cast())
        })
}

/// A list of integers, in the current memory context; NULL for none.
pub fn of_integers(items: impl IntoIterator<Item = i32>) -> *mut pg_sys::List {
    items
        .into_iter()
        // SAFETY: as above.
        .fold(std::ptr::null_mut(), |list, item| unsafe {
            pg_sys::lappend_int(list, item)
        })
}

/// The tag of a node.
///
/// # Safety
/// `node` is a valid node.
pub unsafe fn tag<T>(node: *const T) -> pg_sys::NodeTag {
    // SAFETY: every node begins with its tag.
    unsafe { (*node.cast::<pg_sys::Node>()).type_ }
}
