//! One node and no network: append, read back, and find it all there the next time.

use dledger::DLedger;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join("dledger-single");
    // Another version of this crate may have left a format there that this one does not read.
    let way_out = |error| format!("{error}. Or begin anew: delete {}", dir.display());
    let ledger = DLedger::builder(1).dir(&dir).open().map_err(way_out)?;

    let index = ledger.append(b"hello, ledger")?; // returns when it is on the disk
    let entry = ledger.get(index)?.ok_or("what was acknowledged can be read")?;
    println!("entry {index} at position {}: {}", entry.position(), String::from_utf8_lossy(&entry));
    println!("{} holds {} entries: run me again", dir.display(), ledger.committed().end);

    ledger.shutdown()?;
    Ok(())
}
