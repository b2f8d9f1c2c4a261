"""From LLVM text to machine code: ISA descriptions, compiling, linking into one image, and the disk cache."""
