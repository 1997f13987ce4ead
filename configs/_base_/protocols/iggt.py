# The columns of IGGT's tables.
iggt = [dict(type='IGGTMetric')]
