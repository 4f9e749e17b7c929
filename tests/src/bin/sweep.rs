//! Removes what interrupted system tests left on this machine; worlds of running tests are left alone.

use drowse_tests::machine;
use drowse_tests::world::Slot;

fn main() {
    if machine::is_root() {
        Slot::sweep_free_ones();
    }
}
