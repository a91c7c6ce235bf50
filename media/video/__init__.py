"""Video: files, pipes and cameras, from decoded frame to encoded one."""
