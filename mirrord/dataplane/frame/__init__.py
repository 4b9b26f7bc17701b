"""What a frame is: its headers, its tags put back, its checksums completed, a super-frame cut into segments."""
