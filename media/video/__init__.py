"""Files, pipes and cameras of video, from decoded frame to encoded one."""
