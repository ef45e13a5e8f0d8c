#![allow(dead_code)]
mod data;
mod random;
fn main() {}
