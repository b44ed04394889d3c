"""Reports and pictures: pages of HTML with figures inside."""
