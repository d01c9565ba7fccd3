//! The journal on a disk, behind a small Disk seam
