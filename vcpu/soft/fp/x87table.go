package fp

var (
	memoryForms   [8][8]*Op87
	registerForms [8][64]*Op87
)
