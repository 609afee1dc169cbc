package fp

func initTranscendental() {}
