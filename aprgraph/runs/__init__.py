"""Running a model: what is asked for is checked (plan), what can run it is opened (open_engine), then it is carried out (execute).

``recorder`` stands between the tensors that appear meanwhile and the files of the trace.
"""
