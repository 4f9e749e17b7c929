//! `stack DIR NAME...`: builds stacks into the image store in DIR, as `drowse-agent stack build` does.

#![allow(clippy::print_stdout, reason = "this is a program for people")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use drowse_rootfs::{ImageStore, stacks};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, names @ ..] = &arguments[..] else { return Err("usage: stack DIR NAME...".into()) };
    let store = ImageStore::open(Path::new(dir))?;
    for name in names {
        let start = Instant::now();
        let image = stacks::build(&stacks::load(name)?, &store, &|line| {
            println!("{:6.1} s  {line}", start.elapsed().as_secs_f32())
        })?;
        println!("{name} = {image}");
    }
    for stack in stacks::list(&store)? {
        println!("{} {} {}", stack.name, stack.image, stack.size);
    }
    Ok(())
}
