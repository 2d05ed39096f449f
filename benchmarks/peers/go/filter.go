package main

import (
	"bufio"
	"bytes"
	"io"
)

// The longest line that passes: 32 MiB and its end.
const maxLine = 32<<20 + 2

// filtered is an event stream without its comments. A goroutine scans it line by line and writes to a pipe: each line,
// as one does who thinks of lines, or, which is cheaper, an event at a time.
func filtered(body io.ReadCloser, byEvent bool) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		defer body.Close()
		writer.CloseWithError(copyLines(writer, body, byEvent))
	}()
	return reader
}

// copyLines drops comments, and the blank line behind a block that held nothing else.
func copyLines(w io.Writer, r io.Reader, byEvent bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine+1)
	lines.Split(scanWholeLines)
	out := bufio.NewWriterSize(w, 64<<10)
	kept, dropped := false, false
	for lines.Scan() {
		line := lines.Bytes()
		if line[0] == ':' {
			dropped = true
			continue
		}
		blank := isBlank(line)
		passes := !blank || kept || !dropped
		kept = !blank
		dropped = dropped && !blank
		if !passes {
			continue
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
		if blank || !byEvent {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return out.Flush()
}

// scanWholeLines is bufio.ScanLines that leaves each line its end, so that every byte that stays is as it came.
func scanWholeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if at := bytes.IndexByte(data, '\n'); at >= 0 {
		return at + 1, data[:at+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func isBlank(line []byte) bool {
	return line[0] == '\n' || string(line) == "\r\n"
}
