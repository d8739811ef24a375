"""What comes from other machines and from disks, spoilt by the million: nothing of it may be more than an error."""
