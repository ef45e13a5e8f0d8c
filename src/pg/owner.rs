//! Work on varve's own tables.

use super::spi;
use pgrx::pg_sys;

/// Runs `f` as the bootstrap superuser, who owns varve's tables, with nothing of the caller's in the search path; the
/// caller's rights were checked before.
pub fn as_owner<T>(f: impl FnOnce() -> T) -> T {
    let owner = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);
    as_role(owner, || {
        spi::with_setting(c"search_path", c"pg_catalog, pg_temp", f)
    })
}

/// Runs `f` as another role, which cannot leave anything behind in the session; for code of that role's.
pub fn as_role<T>(role: pg_sys::Oid, f: impl FnOnce() -> T) -> T {
    struct Restore(pg_sys::Oid, i32);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: puts the session's user back.
            unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) }
        }
    }
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: as a SECURITY DEFINER function switches users.
    let _restore = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restore = Restore(user, context);
        pg_sys::SetUserIdAndSecContext(
            role,
            context
                | (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION)
                    as i32,
        );
        restore
    };
    f()
}
