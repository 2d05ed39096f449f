module sseflow-peer

go 1.19
