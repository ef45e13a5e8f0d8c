//! What `varve-demo` is made of: the prices, the stage, and the chapters.

pub mod chapters;
pub mod data;
pub mod generate;
pub mod show;
pub mod stage;
