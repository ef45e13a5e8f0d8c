//! The chapters, a file each. [`queries`] is two: the same questions before and after freezing.

pub mod again;
pub mod changes;
pub mod correct;
pub mod damage;
pub mod disaster;
pub mod freeze;
pub mod load;
pub mod queries;
pub mod server;
pub mod sizes;
pub mod thaw;
pub mod verify;
