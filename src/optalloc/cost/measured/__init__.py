"""Published training measurements: rows of a table as problems of the cost model."""
