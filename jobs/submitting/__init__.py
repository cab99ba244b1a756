"""What ``flts submit`` does on this side: packs the code, asks the cluster for the job, and follows it to its end."""
