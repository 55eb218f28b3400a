# Reads one value of the file of a month, and what it says of itself.
library(ncdf4)
arguments <- commandArgs(trailingOnly = TRUE)
file <- nc_open(arguments[1])
place <- as.integer(strsplit(arguments[2], ",")[[1]])
for (name in c("soil_moisture", "standard_deviation")) {
  value <- ncvar_get(file, name, start = place, count = c(1, 1, 1, 1))
  cat(name, sprintf("%.9f", value), ncatt_get(file, name, "units")$value, "\n")
}
# All cells of that day, by what they hold and how many hold nothing.
whole <- ncvar_get(file, "soil_moisture", start = c(1, 1, 1, place[4]), count = c(-1, -1, -1, 1))
cat("day", sprintf("%.9f", mean(whole, na.rm = TRUE)), sum(is.na(whole)), dim(whole), "\n")
cat("root_zone", sprintf("%.9f", ncvar_get(file, "root_zone_soil_moisture", start = place[c(1, 2, 4)], count = c(1, 1, 1))), "\n")
cat("time", ncvar_get(file, "time")[place[4]], ncatt_get(file, "time", "units")$value, "\n")
cat("licence", ncatt_get(file, 0, "license")$value, "\n")
